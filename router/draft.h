// Guessing ahead as a way to spend bits: a coarser variant draws the next tokens, one pass of the
// finer one verifies them. An answer is the finer variant's to the token and reads fewer bytes
// (speculative decoding, arXiv 2211.17192, with the model's own coarse planes as the draft).
#pragma once

#include <span>
#include <vector>

#include "router/router.h"

namespace lift::router {

// How a variant decodes where guessing is allowed.
struct DraftPlan {
  int variant = -1;    // index of the one that guesses; -1 = none: each token is a pass of its own
  int tokens = 0;      // guessed before each pass
  double bits = 0;     // expected plane bits per weight that are read for one token of an answer
  bool known = false;  // planned by how often guesses are right; else worth a try
};

// Passes of the verifying variant that one token takes if each guess is right with this probability
// whatever the others are. tokens >= 0.
double PassesPerToken(double right, int tokens);

// The plan of each variant that reads least for a query of average harm, guessing at most
// `config.most_drafts` tokens. Without a predictor that knows how often guesses are right the
// coarsest variant guesses, and nothing is counted on. Bits do not fall from a variant to a finer
// one.
std::vector<DraftPlan> PlanDrafts(std::span<const VariantView> variants,
                                  const RouterConfig& config);

}  // namespace lift::router
