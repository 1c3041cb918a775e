#include "kernels/format/rotation.h"

#include <cmath>
#include <numbers>

#include "kernels/base/check.h"

namespace lift {
namespace {

// Sign i of a seed: the top bit of the i-th output of SplitMix64.
float SignOf(uint64_t seed, int64_t i) {
  uint64_t z = seed + 0x9E3779B97F4A7C15u * (static_cast<uint64_t>(i) + 1);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return ((z ^ (z >> 31)) >> 63) != 0 ? -1.0f : 1.0f;
}

// x <- WHT_p x (unnormalized) on each of `blocks` runs of p, strides ascending. The vector kernels
// do the same butterflies in the same order, hence the same bits.
void Butterflies(float* x, int64_t blocks, int64_t p) {
  for (int64_t b = 0; b < blocks; ++b, x += p) {
    for (int64_t h = 1; h < p; h *= 2) {
      for (int64_t i = 0; i < p; i += 2 * h) {
        for (int64_t k = i; k < i + h; ++k) {
          const float low = x[k], high = x[k + h];
          x[k] = low + high;
          x[k + h] = low - high;
        }
      }
    }
  }
}

// x <- (C_m (x) I_p) x, each output a sum over j in ascending order.
void MixBlocks(const float* c, int64_t m, int64_t p, float* x, float* scratch) {
  if (m == 1) return;
  for (int64_t i = 0; i < m; ++i) {
    float* out = scratch + i * p;
    for (int64_t k = 0; k < p; ++k) out[k] = c[i * m] * x[k];
    for (int64_t j = 1; j < m; ++j) {
      const float factor = c[i * m + j];
      const float* in = x + j * p;
      for (int64_t k = 0; k < p; ++k) out[k] += factor * in[k];
    }
  }
  for (int64_t i = 0; i < m * p; ++i) x[i] = scratch[i];
}

}  // namespace

Rotation::Rotation(RotationSpec spec, int64_t dimension)
    : spec_(spec), dimension_(dimension), power_(1), odd_(dimension) {
  LIFT_CHECK(dimension >= 1);
  while (odd_ % 2 == 0) {
    odd_ /= 2;
    power_ *= 2;
  }
  if (!spec_.enabled) return;
  signs_.resize(static_cast<size_t>(dimension_));
  for (int64_t i = 0; i < dimension_; ++i) signs_[static_cast<size_t>(i)] = SignOf(spec_.seed, i);
  hartley_.resize(static_cast<size_t>(odd_ * odd_));
  for (int64_t i = 0; i < odd_; ++i) {
    for (int64_t j = 0; j < odd_; ++j) {
      const double angle = 2 * std::numbers::pi * static_cast<double>(i * j % odd_) / odd_;
      hartley_[static_cast<size_t>(i * odd_ + j)] =
          static_cast<float>((std::cos(angle) + std::sin(angle)) / std::sqrt(1.0 * odd_));
    }
  }
}

void Rotation::Apply(float* x, float* scratch) const {
  if (!enabled()) return;
  const float norm = static_cast<float>(1 / std::sqrt(static_cast<double>(power_)));
  for (int64_t i = 0; i < dimension_; ++i) x[i] *= signs_[static_cast<size_t>(i)] * norm;
  Butterflies(x, odd_, power_);
  MixBlocks(hartley_.data(), odd_, power_, x, scratch);
}

void Rotation::ApplyTranspose(float* x, float* scratch) const {
  if (!enabled()) return;
  const float norm = static_cast<float>(1 / std::sqrt(static_cast<double>(power_)));
  MixBlocks(hartley_.data(), odd_, power_, x, scratch);
  Butterflies(x, odd_, power_);
  for (int64_t i = 0; i < dimension_; ++i) x[i] *= signs_[static_cast<size_t>(i)] * norm;
}

}  // namespace lift
