// What guessing ahead costs and how often guesses are right, from traces.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "calibration/router/trace.h"
#include "router/draft.h"

namespace lift {

// Whether every prompt's trace says what each variant draws.
bool KnowsDraws(const TraceSet& traces);

// Share of positions at which both variants draw the same token with the same random numbers.
double RightGuesses(const TraceSet& traces, size_t draft, size_t target);

// Plane bits per weight that decoding this answer reads at `target` by its plan, summed over the
// positions: pass by pass, as the engine does it. The draws are those along the finest variant's
// answer; for a coarser target they stand for those along its own.
double ReadBits(const PromptTrace& trace, std::span<const double> bits, size_t target,
                const router::DraftPlan& plan);

// How often guesses are wrong: scale * (KL of the draft - KL of the target)^power, fitted to all
// pairs of variants by least squares of the logarithm.
struct WrongGuesses {
  double scale = 0, power = 1;  // scale 0: not known
  double error = 0;             // mean |fitted - true| share of right guesses over the pairs
};
// kl: [variants], of a query of average harm; ascending precision.
WrongGuesses FitWrongGuesses(const TraceSet& traces, std::span<const double> kl);

}  // namespace lift
