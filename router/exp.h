// An exponential that compilers make vectors of.
#pragma once

#include <bit>
#include <cstdint>

namespace lift::router {

// exp(x) for x in [-87, 0], relative error below 3e-7 (Cephes' expf); NaN for NaN. Without branches
// and calls; the same bits wherever float is IEEE.
[[gnu::always_inline]] inline float ExpOfNegative(float x) {
  constexpr float kRound = 12582912;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = x * 1.44269504F + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * 0.693359375F) + n * 2.12194440e-4F;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  const auto exponent = std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(kRound) + 127;
  return (p * r * r + r + 1) * std::bit_cast<float>(exponent << 23);
}

}  // namespace lift::router
