// The input rotation every lifted layer uses for incoherence, shared by calibration (weights) and
// the kernels (activations).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/format/lifted_file.h"

namespace lift {

// Tables of one RotationSpec for one dimension. Immutable, thread-safe.
// R = (C_m (x) WHT_p / sqrt(p)) diag(signs) is orthogonal; see RotationSpec. Works for every
// dimension >= 1.
class Rotation {
 public:
  Rotation(RotationSpec spec, int64_t dimension);
  int64_t dimension() const { return dimension_; }
  bool enabled() const { return spec_.enabled; }
  int64_t power() const { return power_; }                        // p
  int64_t odd() const { return odd_; }                            // m
  const std::vector<float>& signs() const { return signs_; }      // [dimension] of +1/-1
  const std::vector<float>& hartley() const { return hartley_; }  // [m, m], symmetric, orthogonal
  // x <- R x, in place; scratch holds `dimension` floats. Bit-identical on every call and ISA
  // (fixed operation order).
  void Apply(float* x, float* scratch) const;
  // x <- R^T x, in place.
  void ApplyTranspose(float* x, float* scratch) const;

 private:
  RotationSpec spec_;
  int64_t dimension_, power_, odd_;
  std::vector<float> signs_, hartley_;
};

}  // namespace lift
