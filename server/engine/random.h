// Counter-based random numbers: a pure function of (seed, counter), so a draw never depends on what
// was drawn before.
#pragma once

#include <array>
#include <cstdint>

namespace lift {

// Philox 4x32 with 10 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
inline std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter,
                                          std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
    key = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};
  }
  return counter;
}

// A number for each index, cheap enough for one per token of a vocabulary: SplitMix64 (Steele et
// al., "Fast splittable pseudorandom number generators", 2014) from where Philox says.
class UniformStream {
 public:
  UniformStream(uint64_t seed, uint64_t counter) {
    const auto r =
        Philox4x32({static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0},
                   {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
    start_ = (static_cast<uint64_t>(r[1]) << 32) | r[0];
  }
  // Uniform in (0, 1), 53 bits.
  double At(uint64_t index) const {
    uint64_t z = start_ + (index + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return (static_cast<double>(z >> 11) + 0.5) * 0x1p-53;
  }

 private:
  uint64_t start_;
};

}  // namespace lift
