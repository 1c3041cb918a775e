// One replica as a queue: requests arrive, wait, are read and decoded in batches.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "tests/bench/capacity/step_costs.h"

namespace lift::bench {

struct Arrival {
  double seconds = 0;  // since the beginning, rising
  int64_t prompt_tokens = 1, output_tokens = 1;
};

struct Replica {
  int64_t max_batch = 32, prefill_chunk = 256;
};

struct SimulatedRequest {
  double arrival = 0, admitted = 0, first_token = 0, end = 0;  // seconds since the beginning
  int64_t prompt_tokens = 0, output_tokens = 0;
};

struct Simulation {
  std::vector<SimulatedRequest> requests;  // in the order of arrival; all have ended
  std::vector<double> steps;               // seconds of each step that decoded
  int64_t read_tokens = 0, generated_tokens = 0, step_count = 0;
  double busy_seconds = 0, seconds = 0;  // of steps; until the last end
  double sequence_seconds = 0;           // integral of requests in the system
  double token_seconds = 0;              // integral of tokens whose state is held
  int64_t most_tokens_held = 0;
};

// First come, first served. A step reads at most `prefill_chunk` prompt tokens of those admitted,
// in order, and decodes one token of each sequence that is read; the step that reads a prompt's end
// gives the first token. A sequence leaves at the end of the step of its last token. Pure.
Simulation Simulate(const std::vector<Arrival>& arrivals, const StepCosts& costs,
                    const Replica& replica);

}  // namespace lift::bench
