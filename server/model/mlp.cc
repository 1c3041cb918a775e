#include "server/model/mlp.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/base/check.h"
#include "kernels/format/lifted_file.h"

namespace lift {
namespace {

// Rows of one MLP: gate and up, activation, down.
void ApplyOne(const Mlp& mlp, const float* x, int64_t tokens, const RowVariants& rows,
              MlpStep& step, float* out) {
  const ModelConfig& config = step.config;
  const int64_t inner = config.intermediate_size;
  float* up = step.workspace.Get(Workspace::kUp, tokens * inner);
  ShowInput(step.observer, step.backend, mlp.gate_up, x, tokens, config.hidden_size);
  if (config.gated_mlp) {
    float* gate = step.workspace.Get(Workspace::kGate, tokens * inner);
    float* const both[] = {gate, up};
    ApplySite(mlp.gate_up, x, rows, step.backend, step.lifted, both);
    if (config.activation == Activation::kSilu) {
      step.backend.SwiGlu(gate, up, tokens * inner, up);
    } else {
      step.backend.Gelu(gate, tokens * inner, config.activation == Activation::kGeluTanh);
      step.backend.Multiply(up, gate, tokens * inner);
    }
  } else {
    float* const only[] = {up};
    ApplySite(mlp.gate_up, x, rows, step.backend, step.lifted, only);
    step.backend.Gelu(up, tokens * inner, config.activation == Activation::kGeluTanh);
  }
  ShowInput(step.observer, step.backend, mlp.down, up, tokens, inner);
  float* const down[] = {out};
  ApplySite(mlp.down, up, rows, step.backend, step.lifted, down);
}

uint64_t MlpBytes(const Mlp& mlp, int variant, bool full) {
  uint64_t bytes = 0;
  for (const LinearSite* site : {&mlp.gate_up, &mlp.down}) {
    for (const Linear& linear : site->linears) bytes += MatrixBytes(*linear.weight, variant, full);
  }
  return bytes;
}

// A step reads an expert's planes as far as the finest of its rows does.
void CountBytes(const Mlp& mlp, std::span<const uint8_t> variants, MlpStep& step) {
  int finest = -1, full = -1;
  for (const uint8_t row : variants) {
    const size_t v = RowVariants::Variant(row);
    int& most = step.known[v].full ? full : finest;
    most = std::max(most, static_cast<int>(v));
  }
  if (finest >= 0) step.planes_read += MlpBytes(mlp, finest, false);
  if (full >= 0) step.full_read += MlpBytes(mlp, full, true);
}

}  // namespace

std::vector<ExpertRows> RouteExperts(std::span<const float> scores, int64_t experts,
                                     int64_t per_token) {
  LIFT_CHECK(experts > 0 && per_token > 0 && per_token <= experts);
  std::vector<ExpertRows> chosen(static_cast<size_t>(experts));
  std::vector<int32_t> order(static_cast<size_t>(experts));
  const auto rows = static_cast<int64_t>(scores.size()) / experts;
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = scores.data() + r * experts;
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(
        order.begin(), order.begin() + per_token, order.end(),
        [&](int32_t a, int32_t b) { return row[a] != row[b] ? row[a] > row[b] : a < b; });
    double total = 0;
    for (int64_t i = 0; i < per_token; ++i)
      total += std::exp(static_cast<double>(row[order[static_cast<size_t>(i)]]) - row[order[0]]);
    for (int64_t i = 0; i < per_token; ++i) {
      const auto expert = static_cast<size_t>(order[static_cast<size_t>(i)]);
      chosen[expert].rows.push_back(static_cast<int32_t>(r));
      chosen[expert].weights.push_back(
          static_cast<float>(std::exp(static_cast<double>(row[expert]) - row[order[0]]) / total));
    }
  }
  return chosen;
}

absl::StatusOr<MlpBlock> BindMlps(const Weights& weights, const layout::LayerNames& names) {
  MlpBlock block;
  if (!names.router.empty()) block.router = weights.GetVector(names.router);
  for (const layout::MlpNames& mlp : names.mlps) {
    Mlp& bound = block.mlps.emplace_back();
    LIFT_ASSIGN_OR_RETURN(bound.gate_up, BindSite(weights, mlp.gate_up));
    LIFT_ASSIGN_OR_RETURN(bound.down, BindSite(weights, mlp.down));
  }
  return block;
}

void GroupExperts(const ModelConfig& config, Backend& backend, MlpBlock& block) {
  if (block.router.empty() || !config.gated_mlp || config.activation != Activation::kSilu) return;
  std::vector<ExpertWeights> experts;
  for (const Mlp& mlp : block.mlps) {
    const Linear& gate = mlp.gate_up.linears[0];
    const Linear& up = mlp.gate_up.linears[1];
    const Linear& down = mlp.down.linears[0];
    for (const Linear* linear : {&gate, &up, &down}) {
      if (linear->weight->lifted.size() != 1 || !linear->bias.empty()) return;
    }
    experts.push_back({mlp.gate_up.lift, mlp.down.lift, &gate.weight->lifted[0],
                       &up.weight->lifted[0], &down.weight->lifted[0]});
  }
  block.grouped = backend.MakeExpertLayer(experts, config.experts_per_token);
}

void CountGrouped(MlpBlock& block, Backend& backend, uint64_t& planes_read) {
  if (!block.ran_grouped) return;
  const std::vector<int32_t> touched = backend.TouchedExperts(*block.grouped);
  for (size_t e = 0; e < touched.size(); ++e) {
    if (touched[e] > 0) planes_read += MlpBytes(block.mlps[e], touched[e] - 1, false);
  }
  block.ran_grouped = false;
}

void ApplyMlps(MlpBlock& block, const float* x, int64_t tokens, MlpStep& step, float* out) {
  if (block.router.empty()) return ApplyOne(block.mlps[0], x, tokens, step.rows, step, out);
  const int64_t dim = step.config.hidden_size, experts = step.config.num_experts;
  float* scores = step.workspace.Get(Workspace::kRouting, tokens * experts);
  const DenseMatrixView router{DType::kF32, experts, dim,
                               reinterpret_cast<const std::byte*>(block.router.data())};
  step.backend.DenseMatmul(router, x, tokens, scores);
  const bool lifted = step.rows.runs.size() == 1 && !step.rows.runs[0].full;
  if (block.grouped && lifted && step.observer == nullptr) {
    step.backend.RunExperts(*block.grouped, x, scores, tokens, step.rows.variants, out);
    block.ran_grouped = true;
    return;
  }
  std::vector<float> on_host(static_cast<size_t>(tokens * experts));
  step.backend.Download(scores, on_host.size() * sizeof(float), on_host.data());
  const std::vector<ExpertRows> chosen =
      RouteExperts(on_host, experts, step.config.experts_per_token);
  step.backend.Clear(out, tokens * dim);
  RowVariants rows;
  std::vector<uint8_t> variants;
  for (size_t e = 0; e < chosen.size(); ++e) {
    const auto count = static_cast<int64_t>(chosen[e].rows.size());
    if (count == 0) continue;
    variants.clear();
    for (const int32_t row : chosen[e].rows) {
      const uint8_t variant = step.rows.variants[static_cast<size_t>(row)];
      // RunExperts reads prompts as answers, so the same rows are here, beside full ones.
      variants.push_back(block.grouped ? static_cast<uint8_t>(RowVariants::Variant(variant))
                                       : variant);
    }
    rows.Assign(variants, step.known);
    CountBytes(block.mlps[e], variants, step);
    float* input = step.workspace.Get(Workspace::kExpertInput, count * dim);
    float* output = step.workspace.Get(Workspace::kExpertOutput, count * dim);
    step.backend.GatherRows(x, chosen[e].rows, dim, input);
    ApplyOne(block.mlps[e], input, count, rows, step, output);
    step.backend.AddWeightedRows(out, chosen[e].rows, chosen[e].weights, output, dim);
  }
}

uint64_t MatrixBytes(const Matrix& matrix, int variant, bool full) {
  if (full || matrix.lifted.empty()) return matrix.dense->bytes();
  uint64_t bytes = 2 * static_cast<uint64_t>(matrix.rows);  // binary16 row scales
  for (const LiftedMatrix& strip : matrix.lifted) {
    const std::span<const int64_t> rows = strip.rows_of(variant);
    for (size_t j = 0; j < rows.size(); ++j) {
      bytes += static_cast<uint64_t>(PaddedRows(rows[j]) / kTileRows *
                                     (PaddedColumns(matrix.cols) / kTileColumns) *
                                     strip.stages[j].code->stored * kTileBytes);
    }
  }
  return bytes;
}

uint64_t ExpertBytes(const MlpBlock& block, int variant, bool full) {
  uint64_t bytes = 0;
  if (block.router.empty()) return bytes;
  for (const Mlp& mlp : block.mlps) bytes += MlpBytes(mlp, variant, full);
  return bytes;
}

}  // namespace lift
