// What a path's history means for the columns ahead. A window reaches a far target only if its
// older signs already lean that way, and a beam that looks at one column at a time has dropped the
// paths that do: it misses such targets by many times its usual error, and every later stage
// inherits the miss. So where a far target is near, a path is charged what its history is certain
// to miss it by, until the column itself takes the charge's place.
#pragma once

#include <algorithm>

#include "calibration/beam_search.h"

namespace lift::beam_internal {

// Targets of columns t + 1 to t + kAhead that are far, as column t sees them.
struct FarTargets {
  int count = 0;
  int distance[kAhead];
  float aim[kAhead], weight[kAhead];
};

// The charge for far target k when the steps up to some column give it `sum`.
inline float Charge(const SearchCode& code, const FarTargets& far, int k, float sum) {
  const float aim = far.aim[k];
  const float reach = code.reach[static_cast<size_t>(far.distance[k])];
  const float miss = std::max((aim < 0 ? sum - aim : aim - sum) - reach, 0.0f);
  return far.weight[k] * (miss * miss);
}

}  // namespace lift::beam_internal
