// A whole model: decoding by variant, batch and context, and reading prompts.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "server/model/weights.h"
#include "tests/bench/profile.h"

namespace lift::bench {

struct DecodePoint {
  std::string variant;  // or "mixed"
  int64_t batch = 0, context = 0;
  double tokens_per_second = 0;
  double bytes_per_token = 0;     // weight bytes of a step / batch
  double bandwidth_fraction = 0;  // weight bytes a second / read loop
};

struct PrefillPoint {
  int64_t tokens = 0;
  double tokens_per_second = 0;
};

struct ModelPlan {
  std::vector<int> variants;  // indices; the last of the model's reads prompts
  std::vector<int64_t> batches, contexts, prefills;
  bool mixed = false;  // also batches whose rows take turns through the variants
  double seconds = 1;  // spent on each point
  KvFormat kv_format = kDefaultKvFormat;
};

struct ModelReport {
  std::vector<DecodePoint> decode;
  std::vector<PrefillPoint> prefill;
  // What the model should hold once everything was read: weights of the finest variant measured,
  // state, workspace.
  uint64_t predicted_resident_bytes = 0;
  uint64_t resident_bytes = 0;  // of this process at the end, while the model is there
};

absl::StatusOr<ModelReport> BenchModel(std::shared_ptr<const Weights> weights, Backend& backend,
                                       double read_bandwidth, const ModelPlan& plan);

// The phases of one decode step (means over plan.seconds of them) of the first variant, batch and
// context of the plan, then "everything else" up to the whole step's time.
absl::StatusOr<std::vector<Phase>> ProfileDecode(std::shared_ptr<const Weights> weights,
                                                 Backend& backend, const ModelPlan& plan);

}  // namespace lift::bench
