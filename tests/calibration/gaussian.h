// Samples that the tests of this folder share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace lift {

// `count` samples of a unit Gaussian; the same for a seed.
inline std::vector<float> Gaussian(size_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& v : values) v = normal(random);
  return values;
}

}  // namespace lift
