// What it costs to raise precision inside an answer and keep the state (keys and values, or a
// recurrent state) that the coarser variant wrote, instead of computing it again.
#pragma once

#include <string>
#include <vector>

#include "calibration/router/trace.h"

namespace lift {

// Means over the second halves of answers, KL to the finest variant in nats per token.
struct KeptState {
  std::string variant;         // that wrote the first half
  double bits_per_weight = 0;  // its own
  double staying_kl = 0;       // the second half at this variant, too
  double kept_kl = 0;          // the second half at the finest, on this variant's state
};

// One for each variant, coarsest first; the finest one's kept_kl is what roundings alone come to.
// Empty if the traces were made without TraceOptions::kept_state.
std::vector<KeptState> CompareKeptState(const TraceSet& traces);

}  // namespace lift
