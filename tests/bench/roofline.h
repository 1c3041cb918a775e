// The roofline picture of a step: what each phase reaches between the memory's roof and the
// arithmetic's (Williams et al., "Roofline", 2009).
#pragma once

#include <span>
#include <string>

#include "tests/bench/profile.h"

namespace lift::bench {

// SVG, both axes logarithmic: multiply-adds for a byte, and a second. Phases without bytes are left
// out; a dot's area is its share of the step's time. read_bandwidth: bytes a second; peak:
// multiply-adds a second of the sign product in cache.
std::string RooflineSvg(std::span<const Phase> phases, double read_bandwidth, double peak);

}  // namespace lift::bench
