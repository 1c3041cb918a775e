// The mixer of a Mamba-1 or Mamba-2 layer: projections around a convolution and a selective scan.
// Internal to server/model.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "server/model/layers.h"

namespace lift {

struct MambaBlock {
  LinearSite in, out;
  LinearSite x, dt;                // Mamba-1: {dt, B, C} of the convolved input; dt of its low rank
  std::vector<float> conv_weight;  // [kernel][channels]
  std::vector<float> conv_bias;    // [channels], zeros without one
  std::vector<float> a;            // -exp(A_log)
  std::span<const float> gated_norm;  // Mamba-2: [inner]
  ConvLayer conv;
  ScanLayer scan;
};

absl::StatusOr<MambaBlock> BindMamba(const Weights& weights, const layout::LayerNames& names);

// Backend::Adopt of what the block owns beside the weights.
absl::Status AdoptMamba(const MambaBlock& block, Backend& backend);
// Before the block goes, since other memory may lie at its addresses then.
void AbandonMamba(const MambaBlock& block, Backend& backend);

// Where a step's mixers get their memory.
struct MambaStep {
  const ModelConfig& config;
  Backend& backend;
  Workspace& workspace;
  LiftedActivations& lifted;
  const RowVariants& rows;
  std::span<const RecurrentSequence> sequences;
  ActivationObserver* observer = nullptr;
};

// out [tokens, hidden] = mixer(x), x: [tokens, hidden] already normed. `states`: this layer's
// blocks of layout::RecurrentStateFloats floats, advanced by the step's tokens.
void ApplyMamba(const MambaBlock& block, const float* x, int64_t tokens, float* states,
                MambaStep& step, float* out);

// Floats a token needs of each workspace slot that mixers use.
std::vector<std::pair<Workspace::Slot, int64_t>> MambaWorkspace(const ModelConfig& config);

}  // namespace lift
