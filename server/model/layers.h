// What a decoder layer is made of: linear layers over one shared input, rotary tables, scratch
// memory. Internal to server/model.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "server/model/model_layout.h"
#include "server/model/transformer.h"
#include "server/model/weights.h"

namespace lift {

// The variant of every row of a step, and the longest runs of rows that are all full or all lifted.
struct RowVariants {
  struct Run {
    int64_t begin = 0, end = 0;
    bool full = false;
  };
  std::vector<uint8_t> variants;  // [rows], with kPrefillRow
  std::vector<Run> runs;
  static size_t Variant(uint8_t row_variant) {
    return row_variant & static_cast<uint8_t>(~kPrefillRow);
  }
  void Assign(std::span<const uint8_t> row_variants, std::span<const LiftedVariant> known);
};

// One linear layer; `bias` is empty or [rows].
struct Linear {
  const Matrix* weight = nullptr;
  std::span<const float> bias;
};

// Linear layers that read the same input: it is rotated and lifted once for all of them.
struct LinearSite {
  std::string name;
  const LiftSite* lift = nullptr;  // null for checkpoints
  std::vector<Linear> linears;
};

// RMSNorm, or LayerNorm where the family has it.
struct Norm {
  NormKind kind = NormKind::kRms;
  std::span<const float> gain, bias;
  float eps = 0;
  // x, out: [tokens, gain.size()]; may alias.
  void Apply(Backend& backend, const float* x, int64_t tokens, float* out) const;
};
// `name` is its gain; the bias is named beside it.
Norm BindNorm(const Weights& weights, const std::string& name);

absl::StatusOr<LinearSite> BindSite(const Weights& weights, const layout::SiteSpec& spec);

// outputs[i] [rows, linears[i].weight->rows] = linears[i](x). Rows of full variants use the dense
// weights, the others the planes.
void ApplySite(const LinearSite& site, const float* x, const RowVariants& rows, Backend& backend,
               LiftedActivations& scratch, std::span<float* const> outputs);

// Shows an observer, if there is one, the input of a site; x: [tokens, dim] of the backend.
void ShowInput(ActivationObserver* observer, Backend& backend, const LinearSite& site,
               const float* x, int64_t tokens, int64_t dim);

// Angle per position of each rotated pair, scaling applied: [dimension / 2].
std::vector<float> RopeFrequencies(const RopeConfig& config);

// Cosines and sines of rotary positions, computed in double and kept for every position seen.
class RopeTable {
 public:
  explicit RopeTable(const RopeConfig& config);
  int64_t row_floats() const { return static_cast<int64_t>(frequencies_.size()) * 2; }
  // Copies the rows of `count` positions from `position` on: [count][cosines, sines].
  void CopyRows(int64_t position, int64_t count, float* out);

 private:
  std::vector<double> frequencies_;  // [dimension / 2], scaling applied
  std::vector<float> rows_;          // positions 0 to rows_.size() / row_floats() - 1
};

// Activations of one step, kept between steps and grown on demand.
class Workspace {
 public:
  enum Slot {
    kHidden,
    kHeadInput,
    kLogits,  // where the device's memory is not the host's
    kNormed,
    kNormedMlp,
    kQuery,
    kKey,
    kValue,
    kAttended,
    kGate,
    kUp,
    kProjected,
    kCosSin,
    kLocalCosSin,  // of the layers that rotate by ModelConfig::local_rope()
    kRouting,      // [tokens, experts]
    kExpertInput,  // rows of one expert
    kExpertOutput,
    kMixerIn,  // a Mamba mixer's projected input, convolved channels,
    kMixerConv,
    kMixerSelect,  // time steps, B and C,
    kMixerRank,    // time steps before their own projection
    kSlots
  };
  explicit Workspace(Backend& backend) : backend_(backend) {}
  // At least `floats` floats; contents are lost when it grows. Running out of memory here is fatal:
  // servers size their steps at start-up by Transformer::Options::reserve_tokens.
  float* Get(Slot slot, int64_t floats);
  absl::Status Reserve(Slot slot, int64_t floats);
  uint64_t bytes() const;

 private:
  Backend& backend_;
  std::array<std::unique_ptr<Buffer>, kSlots> buffers_;
};

}  // namespace lift
