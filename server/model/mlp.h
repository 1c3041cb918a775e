// The feed-forward part of a layer: one MLP, or experts chosen for each token. Internal to
// server/model.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "server/model/layers.h"

namespace lift {

struct Mlp {
  LinearSite gate_up, down;  // gate_up: {gate, up}, or {up} without a gate
};

struct MlpBlock {
  std::span<const float> router;  // [experts, hidden]; empty: mlps[0] serves every token
  std::vector<Mlp> mlps;
  std::unique_ptr<ExpertLayer> grouped;  // all experts at once, where the device has that
  bool ran_grouped = false;              // in the step at hand
};
// Sets `grouped` if the device and the block allow it.
void GroupExperts(const ModelConfig& config, Backend& backend, MlpBlock& block);

// The rows that chose one expert, and how much each counts it.
struct ExpertRows {
  std::vector<int32_t> rows;  // ascending
  std::vector<float> weights;
};

// Each row's `per_token` best experts by score (the lower index of equals), weighted by softmax
// over those chosen; as Mixtral does. scores: [rows, experts].
std::vector<ExpertRows> RouteExperts(std::span<const float> scores, int64_t experts,
                                     int64_t per_token);

absl::StatusOr<MlpBlock> BindMlps(const Weights& weights, const layout::LayerNames& names);

// Where a step's MLPs get their memory, and what they leave behind.
struct MlpStep {
  const ModelConfig& config;
  Backend& backend;
  Workspace& workspace;
  LiftedActivations& lifted;
  const RowVariants& rows;
  std::span<const LiftedVariant> known;
  ActivationObserver* observer = nullptr;
  // Bytes of expert weights read: by variants that read planes, by full ones.
  uint64_t planes_read = 0, full_read = 0;
};

// Counts the bytes that a grouped step read. Waits for the device.
void CountGrouped(MlpBlock& block, Backend& backend, uint64_t& planes_read);

// out [tokens, hidden] = mlp(x), x: [tokens, hidden] already normed. Each expert's planes are read
// once for all rows that chose it; the others' are not touched. A row's result does not depend on
// the other rows.
void ApplyMlps(MlpBlock& block, const float* x, int64_t tokens, MlpStep& step, float* out);

// Bytes of one matrix that `variant` reads: planes and row scales, or the source tensor.
uint64_t MatrixBytes(const Matrix& matrix, int variant, bool full);
// Of all experts of the block; 0 without experts.
uint64_t ExpertBytes(const MlpBlock& block, int variant, bool full);

}  // namespace lift
