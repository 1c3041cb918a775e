// The derived streams of the codes that calibration makes. A kernel may have a loop of its own for
// each; a code with another mask works everywhere, too, but slower.
#pragma once

#include <cstdint>
#include <initializer_list>

namespace lift {

struct MaskBit {
  int steps_back, stream;
};

// As in LiftCode::masks.
consteval uint64_t ParityMask(int streams, std::initializer_list<MaskBit> bits) {
  uint64_t mask = 0;
  for (const MaskBit& bit : bits) mask |= uint64_t{1} << (bit.steps_back * streams + bit.stream);
  return mask;
}

// [stored streams], one derived stream each. Found together with the taps (calibration/codes.cc).
inline constexpr uint64_t kParityMasks[] = {
    0, ParityMask(2, {{0, 0}, {1, 0}, {3, 0}, {5, 0}, {6, 0}}),
    ParityMask(3, {{0, 1}, {1, 0}, {1, 1}, {3, 0}, {3, 1}, {4, 0}, {6, 1}}),
    ParityMask(4, {{0, 0}, {1, 0}, {3, 0}, {4, 1}}),
    ParityMask(5, {{0, 0}, {2, 3}, {3, 0}, {3, 1}, {3, 3}, {5, 0}, {5, 2}})};

}  // namespace lift
