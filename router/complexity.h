// What makes a query look hard, signal by signal (internal to the router).
#pragma once

#include <string_view>
#include <vector>

#include "router/router.h"

namespace lift::router {

// One signal's evidence that the query is hard: weight * strength, each in [0, 1].
struct Evidence {
  std::string_view name;
  double weight = 0, strength = 0;
};

std::vector<Evidence> CollectEvidence(const TextFeatures& text, const PrefillSignals& prefill);

// 1 - prod(1 - weight * strength): independent pieces of evidence, each of which can only raise the
// score.
double Combine(const std::vector<Evidence>& evidence);

}  // namespace lift::router
