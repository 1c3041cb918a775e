// The lifted matrices that kernel tests run on every table.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "tests/kernels/kernel_tables.h"
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
      // Few tokens, one stored and one derived stream, many rows: sums are looked up.
      {"lookup", 601, 1184, 6, {{1, 1, 12, 0}, {1, 1, 9, 1}}, true},
      {"lookupwide", 272, 96, 2, {{2, 1, 8, 0}, {1, 1, 12, 1}, {1, 1, 12, 1}}, true},
      {"lookupcut", 1000, 33, 4, {{1, 1, 8, 0}}, false},
      // Codes that a kernel may have a loop of its own for.
      {"shipped", 601, 1184, 4, {{1, 1, 12, 0, true}, {2, 1, 9, 1, true}}, true},
      {"shippedmore", 1000, 352, 3, {{3, 1, 8, 0, true}, {4, 1, 7, 1, true}}, true},
      {"shippedshort", 272, 33, 2, {{2, 1, 9, 0, true}, {1, 1, 12, 1, true}}, false},
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

// "table_shape", for tests over both.
inline std::string TableByShapeName(
    const testing::TestParamInfo<std::tuple<const cpu::Kernels*, Shape>>& info) {
  return TableName(std::get<0>(info.param)) + "_" + std::get<1>(info.param).name;
}

// The portable table's result on one thread, which `table` gives on any number of them.
inline std::vector<float> ExpectSameBitsOnAnyThreads(const cpu::Kernels& table,
                                                     const RandomLifted& lifted,
                                                     const std::vector<float>& x,
                                                     const std::vector<uint8_t>& variants) {
  ThreadPool one(1);
  const auto portable = cpu::MakeCpuBackendOn(one, cpu::PortableKernels());
  const std::vector<float> want = Multiply(*portable, lifted, x, variants);
  for (const int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    const auto backend = cpu::MakeCpuBackendOn(pool, table);
    EXPECT_TRUE(SameBits(Multiply(*backend, lifted, x, variants), want)) << threads << " threads";
  }
  return want;
}

// kind: 0, or kPrefillRow for rows of prompts.
inline void ExpectNotANumberStaysInItsRow(const cpu::Kernels& table, uint8_t kind) {
  RandomLifted lifted(20, 64, {{2, 1, 6, 0}}, {true, 4}, 3);
  lifted.AddVariant({20}, 0);
  std::vector<float> x = RandomFloats(3 * 64, 2);
  x[70] = std::numeric_limits<float>::quiet_NaN();
  ThreadPool pool(1);
  const auto backend = cpu::MakeCpuBackendOn(pool, table);
  const std::vector<float> y = Multiply(*backend, lifted, x, {kind, kind, kind});
  for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(std::isnan(y[i]), i / 20 == 1) << i;
}

// Nobody reads stage 1 beyond row 16, so those planes may be absent altogether.
inline void ExpectUnreadPlanesAreNotTouched(const cpu::Kernels& table, uint8_t kind) {
  RandomLifted lifted(64, 64, {{2, 0, 6, 0}, {2, 0, 6, 0}}, {}, 3);
  lifted.AddVariant({64, 16}, 0);
  lifted.AddVariant({64, 0}, 0);
  const std::vector<uint8_t> variants = {kind, static_cast<uint8_t>(kind | 1)};
  const std::vector<float> x = RandomFloats(2 * 64, 2);
  ThreadPool pool(1);
  const auto backend = cpu::MakeCpuBackendOn(pool, table);
  const std::vector<float> want = Multiply(*backend, lifted, x, variants);
  // Keep the first row tile only: anything behind it is out of bounds for the sanitizer.
  const std::vector<RandomLifted::PlaneLine> first(lifted.planes[1].begin(),
                                                   lifted.planes[1].begin() + 4);
  lifted.matrix.stages[1].planes = reinterpret_cast<const std::byte*>(first.data());
  EXPECT_TRUE(SameBits(Multiply(*backend, lifted, x, variants), want));
}

}  // namespace lift
