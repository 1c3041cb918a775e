#include "calibration/export/onnx_export.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>

#include "absl/strings/str_cat.h"
#include "calibration/export/onnx_graph.h"
#include "calibration/export/variant_tensors.h"
#include "server/model/layers.h"
#include "server/model/model_layout.h"

namespace lift {
namespace {

using Value = OnnxGraph::Value;

class ModelWriter {
 public:
  ModelWriter(const Weights& weights, int variant, Backend& backend, const std::string& folder)
      : config_(weights.config()),
        weights_(weights),
        reader_(weights, variant, backend),
        graph_(folder) {}

  absl::Status Write(const LiftedVariant& variant) {
    graph_.Input("input_ids", OnnxGraph::kInt64, {"batch", "sequence"});
    if (!config_.recurrent()) AllPositions();
    const Value embedding = Stored(layout::kEmbedding);
    Value x = graph_.Op("Gather", {embedding, "input_ids"}, {{"axis", int64_t{0}}});
    if (config_.embedding_scale != 1)
      x = graph_.Op("Mul", {x, graph_.Float(config_.embedding_scale)});
    for (int64_t i = 0; i < config_.num_layers; ++i) {
      const size_t kind = config_.window(i) > 0 ? 1 : 0;
      x = Layer(layout::LayerNames(config_, i), positions_[kind], x);
    }
    x = Norm(x, layout::kFinalNorm, config_.norm);
    const Value logits = config_.tie_embeddings
                             ? graph_.Op("MatMul", {x, Transpose(embedding, {1, 0})})
                             : Linear(x, layout::HeadName(config_));
    LIFT_RETURN_IF_ERROR(status_);
    graph_.Output(logits, "logits", OnnxGraph::kFloat, {"batch", "sequence", config_.vocab_size});
    return graph_.Finish(config_.architecture, {{"variant", variant.name},
                                                {"lambda", absl::StrCat(variant.lambda)},
                                                {"model_config", config_.ToJson()}});
  }

 private:
  // --- weights ---

  std::optional<ExportTensor> Find(const std::string& name) {
    absl::StatusOr<ExportTensor> tensor = CanonicalTensor(weights_, name);
    if (tensor.ok()) return *std::move(tensor);
    status_.Update(tensor.status());
    return std::nullopt;
  }

  // [rows, cols] as it is.
  Value Stored(const std::string& name) {
    const std::optional<ExportTensor> tensor = Find(name);
    if (!tensor) return {};
    graph_.BeginWeights(name, tensor->shape);
    std::vector<float> row(static_cast<size_t>(tensor->cols));
    for (int64_t r = 0; r < tensor->rows; ++r) {
      reader_.Row(*tensor, r, row);
      graph_.AppendWeights(row);
    }
    return name;
  }

  // [cols, rows]: what MatMul wants on its right.
  Value Transposed(const std::string& name) {
    const std::optional<ExportTensor> tensor = Find(name);
    if (!tensor) return {};
    const auto rows = static_cast<size_t>(tensor->rows), cols = static_cast<size_t>(tensor->cols);
    std::vector<float> row(cols), all(rows * cols);
    for (size_t r = 0; r < rows; ++r) {
      reader_.Row(*tensor, static_cast<int64_t>(r), row);
      for (size_t c = 0; c < cols; ++c) all[c * rows + r] = row[c];
    }
    graph_.BeginWeights(name, {tensor->cols, tensor->rows});
    graph_.AppendWeights(all);
    return name;
  }

  Value Linear(const Value& x, const std::string& matrix) {
    const Value y = graph_.Op("MatMul", {x, Transposed(matrix)});
    const std::string bias = layout::BiasName(matrix);
    if (weights_.GetVector(bias).empty()) return y;
    return graph_.Op("Add", {y, Stored(bias)});
  }

  Value Norm(const Value& x, const std::string& name, NormKind kind) {
    const Value gain = Stored(name);
    if (kind == NormKind::kRms) return graph_.Op("Mul", {RmsNormed(x), gain});
    return graph_.Op("LayerNormalization", {x, gain, Stored(layout::BiasName(name))},
                     {{"axis", int64_t{-1}}, {"epsilon", config_.rms_norm_eps}});
  }

  Value RmsNormed(const Value& x) {
    const Value square = graph_.Op("Mul", {x, x});
    const Value mean = graph_.Op("ReduceMean", {square},
                                 {{"axes", std::vector<int64_t>{-1}}, {"keepdims", int64_t{1}}});
    const Value root =
        graph_.Op("Sqrt", {graph_.Op("Add", {mean, graph_.Float(config_.rms_norm_eps)})});
    return graph_.Op("Div", {x, root});
  }

  // --- positions ---

  // Of the layers that see everything and of those with a window.
  struct Positions {
    Value cosines, sines;  // [sequence, 1, rotary / 2]
    Value allowed;         // [sequence, sequence] (query, key)
  };

  void AllPositions() {
    const Value length = graph_.Op("Gather", {graph_.Op("Shape", {"input_ids"}), graph_.Int(1)},
                                   {{"axis", int64_t{0}}});
    const Value places = graph_.Op("Range", {graph_.Int(0), length, graph_.Int(1)});
    const Value column = graph_.Op("Cast", {graph_.Op("Unsqueeze", {places, graph_.Ints({1, 2})})},
                                   {{"to", int64_t{OnnxGraph::kFloat}}});
    const Value distance = graph_.Op("Sub", {graph_.Op("Unsqueeze", {places, graph_.Ints({1})}),
                                             graph_.Op("Unsqueeze", {places, graph_.Ints({0})})});
    if (config_.widest_window() == 0) MakePositions(config_.rope, column, distance, 0);
    if (config_.sliding_window == 0) return;
    const bool local = config_.local_rope_theta > 0;
    MakePositions(local ? config_.local_rope() : config_.rope, column, distance,
                  config_.sliding_window);
  }

  void MakePositions(const RopeConfig& rope, const Value& column, const Value& distance,
                     int64_t window) {
    Positions& positions = positions_[window > 0 ? 1 : 0];
    const std::vector<float> frequencies = RopeFrequencies(rope);
    const Value angles = graph_.Op(
        "Mul", {column, graph_.Floats({static_cast<int64_t>(frequencies.size())}, frequencies)});
    positions.cosines = graph_.Op("Cos", {angles});
    positions.sines = graph_.Op("Sin", {angles});
    positions.allowed = graph_.Op("GreaterOrEqual", {distance, graph_.Int(0)});
    if (window == 0) return;
    const Value near = graph_.Op("Less", {distance, graph_.Int(window)});
    positions.allowed = graph_.Op("And", {positions.allowed, near});
  }

  // x: [batch, sequence, heads, head_dim].
  Value Rotate(const Positions& at, const Value& x) {
    const int64_t half = config_.rope.dimension / 2, rest = config_.head_dim - 2 * half;
    std::vector<int64_t> sizes = {half, half};
    if (rest > 0) sizes.push_back(rest);
    const std::vector<Value> parts = graph_.Op(
        "Split", {x, graph_.Ints(sizes)}, static_cast<int>(sizes.size()), {{"axis", int64_t{-1}}});
    const auto times = [&](const Value& a, const Value& b) { return graph_.Op("Mul", {a, b}); };
    std::vector<Value> rotated = {
        graph_.Op("Sub", {times(parts[0], at.cosines), times(parts[1], at.sines)}),
        graph_.Op("Add", {times(parts[1], at.cosines), times(parts[0], at.sines)})};
    if (rest > 0) rotated.push_back(parts[2]);
    return graph_.Op("Concat", rotated, {{"axis", int64_t{-1}}});
  }

  // --- a layer ---

  Value Reshape(const Value& x, const std::vector<int64_t>& shape) {
    return graph_.Op("Reshape", {x, graph_.Ints(shape)});
  }
  Value Transpose(const Value& x, const std::vector<int64_t>& order) {
    return graph_.Op("Transpose", {x}, {{"perm", order}});
  }

  Value Layer(const layout::LayerNames& names, const Positions& at, const Value& x) {
    const Value normed = Norm(x, names.input_norm, config_.norm);
    if (config_.recurrent()) return graph_.Op("Add", {x, Mixer(names.mamba, normed)});
    Value attended = Attention(names, at, normed);
    if (config_.output_norms) attended = Norm(attended, names.attention_out_norm, config_.norm);
    const Value middle = graph_.Op("Add", {x, attended});
    const Value second =
        Norm(config_.parallel_residual ? x : middle, names.post_norm, config_.norm);
    Value fed = FeedForward(names, second);
    if (config_.output_norms) fed = Norm(fed, names.mlp_out_norm, config_.norm);
    return graph_.Op("Add", {middle, fed});
  }

  Value Attention(const layout::LayerNames& names, const Positions& at, const Value& x) {
    const int64_t kv = config_.num_kv_heads, group = config_.num_heads / kv, dim = config_.head_dim;
    Value q = Reshape(Linear(x, names.qkv.matrices[0]), {0, 0, config_.num_heads, dim});
    Value k = Reshape(Linear(x, names.qkv.matrices[1]), {0, 0, kv, dim});
    const Value v = Reshape(Linear(x, names.qkv.matrices[2]), {0, 0, kv, 1, dim});
    if (config_.qk_norm) {
      q = Norm(q, names.q_norm, NormKind::kRms);
      k = Norm(k, names.k_norm, NormKind::kRms);
    }
    q = Transpose(Reshape(Rotate(at, q), {0, 0, kv, group, dim}), {0, 2, 3, 1, 4});
    k = Transpose(Reshape(Rotate(at, k), {0, 0, kv, 1, dim}), {0, 2, 3, 4, 1});
    const auto scale = static_cast<float>(config_.score_scale());
    const Value scores = graph_.Op("MatMul", {graph_.Op("Mul", {q, graph_.Float(scale)}), k});
    const Value masked = graph_.Op(
        "Where", {at.allowed, scores, graph_.Float(std::numeric_limits<float>::lowest())});
    const Value shares = graph_.Op("Softmax", {masked}, {{"axis", int64_t{-1}}});
    const Value mixed = graph_.Op("MatMul", {shares, Transpose(v, {0, 2, 3, 1, 4})});
    const Value rows = Reshape(Transpose(mixed, {0, 3, 1, 2, 4}), {0, 0, config_.num_heads * dim});
    return Linear(rows, names.o.matrices[0]);
  }

  Value Activate(const Value& x) {
    if (config_.activation == Activation::kSilu) return Silu(x);
    Value inner;
    if (config_.activation == Activation::kGelu) {
      inner = graph_.Op("Erf", {graph_.Op("Mul", {x, graph_.Float(std::sqrt(0.5f))})});
    } else {
      const Value cube = graph_.Op("Mul", {graph_.Op("Mul", {x, x}), x});
      const Value sum = graph_.Op("Add", {x, graph_.Op("Mul", {cube, graph_.Float(0.044715f)})});
      inner = graph_.Op("Tanh", {graph_.Op("Mul", {sum, graph_.Float(0.7978845608f)})});
    }
    const Value half = graph_.Op("Mul", {x, graph_.Float(0.5f)});
    return graph_.Op("Mul", {half, graph_.Op("Add", {inner, graph_.Float(1)})});
  }

  Value Mlp(const layout::MlpNames& names, const Value& x) {
    Value inner = Activate(Linear(x, names.gate_up.matrices[0]));
    if (config_.gated_mlp) inner = graph_.Op("Mul", {inner, Linear(x, names.gate_up.matrices[1])});
    return Linear(inner, names.down.matrices[0]);
  }

  // Every expert is computed; those not chosen count zero.
  Value FeedForward(const layout::LayerNames& names, const Value& x) {
    if (names.router.empty()) return Mlp(names.mlps[0], x);
    const Value scores = graph_.Op("MatMul", {x, Transposed(names.router)});
    const std::vector<Value> best = graph_.Op(
        "TopK", {scores, graph_.Ints({config_.experts_per_token})}, 2, {{"axis", int64_t{-1}}});
    const Value chosen = graph_.Op("Softmax", {best[0]}, {{"axis", int64_t{-1}}});
    const Value zeros = graph_.Op("Mul", {scores, graph_.Float(0)});
    const Value counts =
        graph_.Op("ScatterElements", {zeros, best[1], chosen}, {{"axis", int64_t{-1}}});
    Value sum;
    for (size_t e = 0; e < names.mlps.size(); ++e) {
      const Value count = graph_.Op("Gather", {counts, graph_.Ints({static_cast<int64_t>(e)})},
                                    {{"axis", int64_t{-1}}});
      const Value part = graph_.Op("Mul", {Mlp(names.mlps[e], x), count});
      sum = e == 0 ? part : graph_.Op("Add", {sum, part});
    }
    return sum;
  }

  // --- Mamba ---

  std::vector<Value> SplitLast(const Value& x, const std::vector<int64_t>& sizes) {
    return graph_.Op("Split", {x, graph_.Ints(sizes)}, static_cast<int>(sizes.size()),
                     {{"axis", int64_t{-1}}});
  }
  Value Silu(const Value& x) { return graph_.Op("Mul", {x, graph_.Op("Sigmoid", {x})}); }

  // silu(conv(x)) over the sequence, x: [batch, sequence, channels].
  Value Convolved(const std::string& name, const Value& x) {
    std::vector<Value> inputs = {Transpose(x, {0, 2, 1}), Stored(name)};
    const std::string bias = layout::BiasName(name);
    if (!weights_.GetVector(bias).empty()) inputs.push_back(Stored(bias));
    const Value y = graph_.Op("Conv", inputs,
                              {{"group", config_.ssm.conv_channels()},
                               {"pads", std::vector<int64_t>{config_.ssm.conv_kernel - 1, 0}}});
    return Silu(Transpose(y, {0, 2, 1}));
  }

  // One step of the scan: state [batch, groups, heads, head_dim, states] -> next state and output.
  // Inputs carry the axes they lack as ones.
  OnnxGraph::Body ScanBody(const std::string& name, const Value& a, const Value& last_axis) {
    graph_.BeginBody();
    const auto input = [&](const char* what, std::vector<int64_t> sizes) {
      const std::string full = absl::StrCat(name, ".", what);
      std::vector<OnnxGraph::Dimension> shape = {absl::StrCat(full, ".batch")};
      shape.insert(shape.end(), sizes.begin(), sizes.end());
      graph_.Input(full, OnnxGraph::kFloat, shape);
      return full;
    };
    const SsmConfig& ssm = config_.ssm;
    const int64_t groups = ssm.groups, heads = ssm.heads / groups;
    const Value state = input("state", {groups, heads, ssm.head_dim, ssm.state});
    const Value dt = input("dt", {groups, heads, 1, 1});
    const Value x = input("x", {groups, heads, ssm.head_dim, 1});
    const Value b = input("b", {groups, 1, 1, ssm.state}),
                c = input("c", {groups, 1, 1, ssm.state});
    const Value decay = graph_.Op("Exp", {graph_.Op("Mul", {dt, a})});
    const Value added = graph_.Op("Mul", {graph_.Op("Mul", {dt, x}), b});
    const Value next = graph_.Op("Add", {graph_.Op("Mul", {decay, state}), added});
    const Value y = graph_.Op("ReduceSum", {graph_.Op("Mul", {next, c}), last_axis},
                              {{"keepdims", int64_t{0}}});
    graph_.Output(next, name + ".next", OnnxGraph::kFloat,
                  {name + ".next.batch", groups, heads, ssm.head_dim, ssm.state});
    graph_.Output(y, name + ".y", OnnxGraph::kFloat,
                  {name + ".y.batch", groups, heads, ssm.head_dim});
    return graph_.EndBody(name);
  }

  // x: [batch, sequence, inner], dt before softplus; b, c: [batch, sequence, groups * states].
  Value SelectiveScan(const layout::MambaNames& names, const Value& x, Value dt, const Value& b,
                      const Value& c) {
    const SsmConfig& ssm = config_.ssm;
    const int64_t groups = ssm.groups, heads = ssm.heads / groups;
    const bool per_state = ssm.kind == SsmKind::kMamba1;
    dt = graph_.Op("Clip", {graph_.Op("Softplus", {dt}), graph_.Float(ssm.dt_min),
                            graph_.Float(std::min(ssm.dt_max, std::numeric_limits<float>::max()))});
    const Value a = Reshape(graph_.Op("Neg", {graph_.Op("Exp", {Stored(names.a_log)})}),
                            {groups, heads, 1, per_state ? ssm.state : 1});
    const Value batch =
        graph_.Op("Slice", {graph_.Op("Shape", {x}), graph_.Ints({0}), graph_.Ints({1})});
    const Value sizes = graph_.Ints({groups, heads, ssm.head_dim, ssm.state});
    const Value zeros =
        graph_.Op("ConstantOfShape", {graph_.Op("Concat", {batch, sizes}, {{"axis", int64_t{0}}})});
    const std::vector<Value> scanned = graph_.Op(
        "Scan",
        {zeros, Reshape(dt, {0, 0, groups, heads, 1, 1}),
         Reshape(x, {0, 0, groups, heads, ssm.head_dim, 1}),
         Reshape(b, {0, 0, groups, 1, 1, ssm.state}), Reshape(c, {0, 0, groups, 1, 1, ssm.state})},
        2,
        {{"body", ScanBody(names.a_log + ".scan", a, graph_.Ints({-1}))},
         {"num_scan_inputs", int64_t{4}},
         {"scan_input_axes", std::vector<int64_t>{1, 1, 1, 1}},
         {"scan_output_axes", std::vector<int64_t>{1}}});
    const Value d = Reshape(Stored(names.d), {ssm.heads, 1});
    const Value passed = graph_.Op("Mul", {Reshape(x, {0, 0, ssm.heads, ssm.head_dim}), d});
    return graph_.Op("Add",
                     {Reshape(scanned[1], {0, 0, ssm.inner}), Reshape(passed, {0, 0, ssm.inner})});
  }

  Value Mixer(const layout::MambaNames& names, const Value& x) {
    const SsmConfig& ssm = config_.ssm;
    const Value projected = Linear(x, names.in.matrices[0]);
    const int64_t shared = ssm.groups * ssm.state;
    if (ssm.kind == SsmKind::kMamba1) {
      const std::vector<Value> in = SplitLast(projected, {ssm.inner, ssm.inner});
      const Value convolved = Convolved(names.conv, in[0]);
      const std::vector<Value> selected =
          SplitLast(Linear(convolved, names.x.matrices[0]), {ssm.dt_rank, shared, shared});
      const Value dt = Linear(selected[0], names.dt.matrices[0]);
      const Value y = SelectiveScan(names, convolved, dt, selected[1], selected[2]);
      return Linear(graph_.Op("Mul", {y, Silu(in[1])}), names.out.matrices[0]);
    }
    const std::vector<Value> in = SplitLast(projected, {ssm.inner, ssm.conv_channels(), ssm.heads});
    const std::vector<Value> parts =
        SplitLast(Convolved(names.conv, in[1]), {ssm.inner, shared, shared});
    const Value dt = graph_.Op("Add", {in[2], Stored(names.dt_bias)});
    const Value y =
        graph_.Op("Mul", {SelectiveScan(names, parts[0], dt, parts[1], parts[2]), Silu(in[0])});
    const Value grouped = RmsNormed(Reshape(y, {0, 0, ssm.groups, ssm.inner / ssm.groups}));
    const Value normed =
        graph_.Op("Mul", {Reshape(grouped, {0, 0, ssm.inner}), Stored(names.gated_norm)});
    return Linear(normed, names.out.matrices[0]);
  }

  const ModelConfig& config_;
  const Weights& weights_;
  VariantReader reader_;
  OnnxGraph graph_;
  absl::Status status_;  // the first weight that was not there
  std::array<Positions, 2> positions_;
};

}  // namespace

absl::Status ExportOnnx(const Weights& weights, int variant, Backend& backend,
                        const std::string& folder) {
  LIFT_RETURN_IF_ERROR(MakeExportFolder(folder, "model.onnx"));
  return ModelWriter(weights, variant, backend, folder)
      .Write(weights.variants()[static_cast<size_t>(variant)]);
}

}  // namespace lift
