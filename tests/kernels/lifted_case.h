// The lifted matrices that kernel tests run on every table.
#pragma once

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

#include "tests/kernels/random_lifted.h"

namespace lift {

struct Shape {
  const char* name;
  int64_t rows, cols, tokens;
  std::vector<RandomLifted::StageSpec> stages;
  bool rotate;
};

// Variants: 0 reads the first stage; 1 all; 2 all, wide; 3 cuts each stage at another row tile;
// 4 nothing.
inline RandomLifted MakeLifted(const Shape& shape, uint64_t seed) {
  RandomLifted lifted(shape.rows, shape.cols, shape.stages, {shape.rotate, seed}, seed);
  const size_t stages = shape.stages.size();
  std::vector<int64_t> one(stages), all(stages, shape.rows), cut(stages);
  one[0] = shape.rows;
  for (size_t j = 0; j < stages; ++j) {
    cut[j] = std::min<int64_t>(shape.rows, shape.rows / 16 / static_cast<int64_t>(j + 1) * 16);
  }
  lifted.AddVariant(one, 0);
  lifted.AddVariant(all, 0);
  lifted.AddVariant(all, stages);
  lifted.AddVariant(cut, 1);
  lifted.AddVariant(std::vector<int64_t>(stages, 0), 0);
  return lifted;
}

inline std::vector<uint8_t> MixedVariants(int64_t tokens) {
  std::vector<uint8_t> variants(static_cast<size_t>(tokens));
  const uint8_t pattern[] = {1, 2, 0, 3, 1, 1, 4};
  for (size_t t = 0; t < variants.size(); ++t) variants[t] = pattern[t % 7];
  return variants;
}

inline const std::vector<Shape>& Shapes() {
  static const std::vector<Shape> shapes = {
      {"row", 1, 33, 1, {{1, 0, 4, 0}}, false},
      {"few", 15, 72, 2, {{2, 0, 8, 0}}, true},
      {"edge", 17, 111, 3, {{2, 1, 8, 0}, {1, 2, 12, 1}}, true},
      {"tiny", 17, 5, 4, {{2, 1, 40, 0}}, true},
      {"odd", 111, 111, 5, {{3, 1, 6, 0}, {2, 1, 8, 1}}, true},
      {"four", 33, 72, 7, {{4, 0, 5, 0}, {2, 2, 8, 1}, {2, 2, 8, 1}}, true},
      {"wide", 48, 1536, 6, {{2, 1, 8, 0}, {1, 1, 10, 1}}, true},
      {"tall", 989, 72, 4, {{2, 0, 8, 0}, {2, 0, 8, 0}}, false},
      {"mid", 64, 576, 17, {{2, 1, 8, 0}, {2, 1, 8, 0}, {1, 2, 8, 1}}, true},
      {"long", 31, 2300, 9, {{1, 2, 12, 0}, {3, 0, 6, 1}}, false}};
  return shapes;
}

inline std::vector<float> Multiply(Backend& backend, const RandomLifted& lifted,
                                   const std::vector<float>& x,
                                   const std::vector<uint8_t>& variants) {
  const int64_t tokens = static_cast<int64_t>(variants.size());
  auto u = backend.MakeLiftedActivations();
  backend.Lift(lifted.site, x.data(), tokens, variants, *u);
  std::vector<float> y(static_cast<size_t>(tokens * lifted.matrix.rows), -7.0f);
  backend.LiftedMatmul(lifted.matrix, *u, variants, y.data());
  return y;
}

inline bool SameBits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

}  // namespace lift
