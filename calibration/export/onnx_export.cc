#include "calibration/export/onnx_export.h"

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
    Positions();
    const Value embedding = Stored(layout::kEmbedding);
    Value x = graph_.Op("Gather", {embedding, "input_ids"}, {{"axis", int64_t{0}}});
    for (int64_t i = 0; i < config_.num_layers; ++i) x = Layer(layout::LayerNames(config_, i), x);
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
    if (kind == NormKind::kLayer) {
      return graph_.Op("LayerNormalization", {x, gain, Stored(layout::BiasName(name))},
                       {{"axis", int64_t{-1}}, {"epsilon", config_.rms_norm_eps}});
    }
    const Value square = graph_.Op("Mul", {x, x});
    const Value mean = graph_.Op("ReduceMean", {square},
                                 {{"axes", std::vector<int64_t>{-1}}, {"keepdims", int64_t{1}}});
    const Value root =
        graph_.Op("Sqrt", {graph_.Op("Add", {mean, graph_.Float(config_.rms_norm_eps)})});
    return graph_.Op("Mul", {graph_.Op("Div", {x, root}), gain});
  }

  // --- positions ---

  // cosines_, sines_ [sequence, 1, rotary / 2] and allowed_ [sequence, sequence] (query, key).
  void Positions() {
    const Value length = graph_.Op("Gather", {graph_.Op("Shape", {"input_ids"}), graph_.Int(1)},
                                   {{"axis", int64_t{0}}});
    const Value places = graph_.Op("Range", {graph_.Int(0), length, graph_.Int(1)});
    const std::vector<float> frequencies = RopeFrequencies(config_.rope);
    const Value column = graph_.Op("Cast", {graph_.Op("Unsqueeze", {places, graph_.Ints({1, 2})})},
                                   {{"to", int64_t{OnnxGraph::kFloat}}});
    const Value angles = graph_.Op(
        "Mul", {column, graph_.Floats({static_cast<int64_t>(frequencies.size())}, frequencies)});
    cosines_ = graph_.Op("Cos", {angles});
    sines_ = graph_.Op("Sin", {angles});
    const Value distance = graph_.Op("Sub", {graph_.Op("Unsqueeze", {places, graph_.Ints({1})}),
                                             graph_.Op("Unsqueeze", {places, graph_.Ints({0})})});
    allowed_ = graph_.Op("GreaterOrEqual", {distance, graph_.Int(0)});
    if (config_.sliding_window > 0) {
      const Value near = graph_.Op("Less", {distance, graph_.Int(config_.sliding_window)});
      allowed_ = graph_.Op("And", {allowed_, near});
    }
  }

  // x: [batch, sequence, heads, head_dim].
  Value Rotate(const Value& x) {
    const int64_t half = config_.rope.dimension / 2, rest = config_.head_dim - 2 * half;
    std::vector<int64_t> sizes = {half, half};
    if (rest > 0) sizes.push_back(rest);
    const std::vector<Value> parts = graph_.Op(
        "Split", {x, graph_.Ints(sizes)}, static_cast<int>(sizes.size()), {{"axis", int64_t{-1}}});
    const auto times = [&](const Value& a, const Value& b) { return graph_.Op("Mul", {a, b}); };
    std::vector<Value> rotated = {
        graph_.Op("Sub", {times(parts[0], cosines_), times(parts[1], sines_)}),
        graph_.Op("Add", {times(parts[1], cosines_), times(parts[0], sines_)})};
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

  Value Layer(const layout::LayerNames& names, const Value& x) {
    const Value normed = Norm(x, names.input_norm, config_.norm);
    const Value middle = graph_.Op("Add", {x, Attention(names, normed)});
    const Value second =
        Norm(config_.parallel_residual ? x : middle, names.post_norm, config_.norm);
    return graph_.Op("Add", {middle, FeedForward(names, second)});
  }

  Value Attention(const layout::LayerNames& names, const Value& x) {
    const int64_t kv = config_.num_kv_heads, group = config_.num_heads / kv, dim = config_.head_dim;
    Value q = Reshape(Linear(x, names.qkv.matrices[0]), {0, 0, config_.num_heads, dim});
    Value k = Reshape(Linear(x, names.qkv.matrices[1]), {0, 0, kv, dim});
    const Value v = Reshape(Linear(x, names.qkv.matrices[2]), {0, 0, kv, 1, dim});
    if (config_.qk_norm) {
      q = Norm(q, names.q_norm, NormKind::kRms);
      k = Norm(k, names.k_norm, NormKind::kRms);
    }
    q = Transpose(Reshape(Rotate(q), {0, 0, kv, group, dim}), {0, 2, 3, 1, 4});
    k = Transpose(Reshape(Rotate(k), {0, 0, kv, 1, dim}), {0, 2, 3, 4, 1});
    const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim)));
    const Value scores = graph_.Op("MatMul", {graph_.Op("Mul", {q, graph_.Float(scale)}), k});
    const Value masked =
        graph_.Op("Where", {allowed_, scores, graph_.Float(std::numeric_limits<float>::lowest())});
    const Value shares = graph_.Op("Softmax", {masked}, {{"axis", int64_t{-1}}});
    const Value mixed = graph_.Op("MatMul", {shares, Transpose(v, {0, 2, 3, 1, 4})});
    const Value rows = Reshape(Transpose(mixed, {0, 3, 1, 2, 4}), {0, 0, config_.num_heads * dim});
    return Linear(rows, names.o.matrices[0]);
  }

  Value Activate(const Value& x) {
    if (config_.activation == Activation::kSilu)
      return graph_.Op("Mul", {x, graph_.Op("Sigmoid", {x})});
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

  const ModelConfig& config_;
  const Weights& weights_;
  VariantReader reader_;
  OnnxGraph graph_;
  absl::Status status_;  // the first weight that was not there
  Value cosines_, sines_, allowed_;
};

}  // namespace

absl::Status ExportOnnx(const Weights& weights, int variant, Backend& backend,
                        const std::string& folder) {
  if (weights.config().recurrent()) {
    return absl::UnimplementedError(absl::StrCat("ONNX of a recurrent model (",
                                                 weights.config().architecture,
                                                 ") is not supported; export it as safetensors"));
  }
  LIFT_RETURN_IF_ERROR(MakeExportFolder(folder, "model.onnx"));
  return ModelWriter(weights, variant, backend, folder)
      .Write(weights.variants()[static_cast<size_t>(variant)]);
}

}  // namespace lift
