#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <map>

#include "kernels/reference/reference.h"
#include "tests/kernels/kernel_tables.h"
#include "tests/kernels/lifted_case.h"

namespace lift {
namespace {

class LiftedKernels : public testing::TestWithParam<std::tuple<const cpu::Kernels*, Shape>> {};

TEST_P(LiftedKernels, MatmulMatchesOracle) {
  const auto& [table, shape] = GetParam();
  const RandomLifted lifted = MakeLifted(shape, 11);
  ThreadPool pool(2);
  const auto backend = cpu::MakeCpuBackendOn(pool, *table);
  const std::vector<float> x = RandomFloats(shape.tokens * shape.cols, 5);
  const std::vector<uint8_t> variants = MixedVariants(shape.tokens);
  static std::map<std::string, reference::Expected> cache;  // the oracle is slow, tables are many
  reference::Expected& want = cache[shape.name];
  if (want.values.empty()) {
    want = reference::LiftedMatmul(lifted.matrix, lifted.site, lifted.rotation_spec, x, variants);
  }
  EXPECT_EQ(reference::Mismatch(Multiply(*backend, lifted, x, variants), want), "");
}

TEST_P(LiftedKernels, RowMatchesOracle) {
  const auto& [table, shape] = GetParam();
  const RandomLifted lifted = MakeLifted(shape, 12);
  ThreadPool pool(1);
  const auto backend = cpu::MakeCpuBackendOn(pool, *table);
  static std::map<std::string, std::vector<double>> rotations;
  std::vector<double>& rotation = rotations[shape.name];
  if (rotation.empty()) rotation = reference::RotationMatrix(lifted.rotation_spec, shape.cols);
  for (const int64_t row : {int64_t{0}, shape.rows / 2, shape.rows - 1}) {
    for (const int variant : {0, 1, 3, 4}) {
      std::vector<float> out(static_cast<size_t>(shape.cols));
      backend->LiftedRow(lifted.matrix, row, variant, out.data());
      const auto want = reference::LiftedRow(lifted.matrix, rotation, row, variant);
      EXPECT_EQ(reference::Mismatch(out, want), "") << "row " << row << " variant " << variant;
    }
  }
}

TEST_P(LiftedKernels, EqualToTheBitOverThreadsBatchesAndTables) {
  const auto& [table, shape] = GetParam();
  const RandomLifted lifted = MakeLifted(shape, 13);
  const std::vector<float> x = RandomFloats(shape.tokens * shape.cols, 6);
  const std::vector<uint8_t> variants = MixedVariants(shape.tokens);
  const std::vector<float> want = ExpectSameBitsOnAnyThreads(*table, lifted, x, variants);
  ThreadPool one(1);
  const auto backend = cpu::MakeCpuBackendOn(one, *table);
  for (int64_t first = 0; first < shape.tokens; ++first) {  // the tokens from `first` on, alone
    const auto from = static_cast<size_t>(first);
    const std::vector<float> part(x.begin() + first * shape.cols, x.end());
    const std::vector<uint8_t> part_variants(variants.begin() + first, variants.end());
    const std::vector<float> y = Multiply(*backend, lifted, part, part_variants);
    EXPECT_TRUE(SameBits(y, std::span(want).subspan(from * static_cast<size_t>(shape.rows))));
  }
}

TEST_P(LiftedKernels, RowsAreEqualToTheBitOverTables) {
  const auto& [table, shape] = GetParam();
  const RandomLifted lifted = MakeLifted(shape, 14);
  ThreadPool pool(1);
  const auto portable = cpu::MakeCpuBackendOn(pool, cpu::PortableKernels());
  const auto backend = cpu::MakeCpuBackendOn(pool, *table);
  std::vector<float> a(static_cast<size_t>(shape.cols)), b(a);
  portable->LiftedRow(lifted.matrix, shape.rows - 1, 1, a.data());
  backend->LiftedRow(lifted.matrix, shape.rows - 1, 1, b.data());
  EXPECT_TRUE(SameBits(a, b));
}

INSTANTIATE_TEST_SUITE_P(TablesByShapes, LiftedKernels,
                         testing::Combine(testing::ValuesIn(AllTables()),
                                          testing::ValuesIn(Shapes())),
                         TableByShapeName);

class EachTable : public testing::TestWithParam<const cpu::Kernels*> {};

// Matrices of one site in one call: each as alone, whatever their sizes and the threads.
TEST_P(EachTable, ManyMatricesAtOnceGiveTheBitsOfEachAlone) {
  std::deque<RandomLifted> all;
  std::vector<std::vector<float>> got;
  std::vector<Backend::LiftedProduct> products;
  for (const int64_t rows : {int64_t{100}, int64_t{17}, int64_t{48}}) {
    all.emplace_back(rows, 160, std::vector<RandomLifted::StageSpec>{{2, 1, 6, 0}, {1, 1, 7, 1}},
                     RotationSpec{true, 4}, 3);
    all.back().AddVariant({rows, rows}, 1);
    all.back().AddVariant({rows, 16}, 0);
    got.emplace_back(static_cast<size_t>(3 * rows), -7.0f);
  }
  for (size_t i = 0; i < all.size(); ++i) {
    for (size_t j = 0; j < all[i].matrix.stages.size(); ++j) {  // codes of one site
      all[i].matrix.stages[j].code = all[0].matrix.stages[j].code;
    }
    products.push_back({&all[i].matrix, got[i].data()});
  }
  const std::vector<float> x = RandomFloats(3 * 160, 6);
  const std::vector<uint8_t> variants = {0, 1, 0};
  for (const int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    const auto backend = cpu::MakeCpuBackendOn(pool, *GetParam());
    auto u = backend->MakeLiftedActivations();
    backend->Lift(all[0].site, x.data(), 3, variants, *u);
    backend->LiftedMatmuls(products, *u, variants);
    for (size_t i = 0; i < all.size(); ++i) {
      std::vector<float> alone(got[i].size());
      backend->LiftedMatmul(all[i].matrix, *u, variants, alone.data());
      EXPECT_TRUE(SameBits(got[i], alone)) << "matrix " << i << ", " << threads << " threads";
    }
  }
}

// With taps of 0 and +-1 and one spike of exactly 127 grid steps nothing rounds anywhere, so the
// result must be the integer of the definition, in both grids.
TEST_P(EachTable, IntegerInputsGiveExactSums) {
  for (const bool wide : {false, true}) {
    RandomLifted lifted(40, 100, {{2, 1, 6, 0}}, {}, 3);
    for (float& tap : lifted.codes[0].taps) tap = tap > 0.2f ? 1.0f : tap < -0.2f ? -1.0f : 0.0f;
    lifted.codes[0].taps[0] = 1.0f;
    for (uint16_t& scale : lifted.scales) scale = FloatToHalf(1.0f);
    lifted.AddVariant({40}, wide ? 1 : 0);
    std::vector<float> x(100);
    std::mt19937_64 random(9);
    for (float& value : x) value = static_cast<float>(random() % 31) - 15.0f;
    for (int i = 40; i < 52; ++i) x[static_cast<size_t>(i)] = 0.0f;
    x[46] = wide ? 16256.0f : 127.0f;
    auto want = reference::LiftedMatmul(lifted.matrix, lifted.site, {}, x, std::vector<uint8_t>{0});
    for (double& tolerance : want.tolerance) tolerance = 0;
    ThreadPool pool(1);
    const auto backend = cpu::MakeCpuBackendOn(pool, *GetParam());
    EXPECT_EQ(reference::Mismatch(Multiply(*backend, lifted, x, {0}), want), "") << "wide " << wide;
  }
}

#if defined(LIFT_CPU_X86)
// Without VNNI a code of calibration that is not looked up decodes at half the speed.
TEST(Avx2Table, LooksUpEveryCodeOfCalibration) {
  for (int stored = 1; stored <= 4; ++stored) {
    for (const int derived : {0, 1}) {
      LiftCode code;
      code.stored = stored;
      code.derived = derived;
      if (derived > 0) code.masks = {kParityMasks[stored]};
      EXPECT_TRUE(cpu::Avx2Kernels().lookups.takes(code)) << stored << "+" << derived;
    }
  }
}
#endif

// All bits set and all columns at the largest byte: the greatest sums of every width on the way.
TEST_P(EachTable, TheLargestSumsDoNotOverflow) {
  const int64_t rows = 300, cols = 4096;
  // An odd number of taps: derived bits are set, too.
  RandomLifted lifted(rows, cols, {{1, 1, 1, 0, true}}, {false, 1}, 5);
  lifted.codes[0].taps = {1.0f, 1.0f};
  for (auto& line : lifted.planes[0]) {
    for (uint64_t& word : line.words) word = ~uint64_t{0};
  }
  lifted.AddVariant({rows}, 0);
  lifted.AddVariant({rows}, 1);
  const std::vector<float> x(static_cast<size_t>(cols), 127.0f);
  ThreadPool pool(2);
  const auto backend = cpu::MakeCpuBackendOn(pool, *GetParam());
  const float sum = 2 * 127.0f * static_cast<float>(cols) * lifted.matrix.stages[0].gain;
  for (const uint8_t variant : {uint8_t{0}, uint8_t{1}}) {
    const std::vector<float> y = Multiply(*backend, lifted, x, {variant});
    for (int64_t r = 0; r < rows; ++r) {
      const float scale = HalfToFloat(lifted.matrix.row_scale[r]);
      ASSERT_FLOAT_EQ(y[static_cast<size_t>(r)], sum * scale) << "row " << r;
    }
  }
}

TEST_P(EachTable, NotANumberReachesItsOwnTokenOnly) {
  ExpectNotANumberStaysInItsRow(*GetParam(), 0);
}

TEST_P(EachTable, ZeroInputGivesZero) {
  RandomLifted lifted(20, 64, {{2, 1, 6, 0}}, {true, 4}, 3);
  lifted.AddVariant({20}, 0);
  ThreadPool pool(1);
  const auto backend = cpu::MakeCpuBackendOn(pool, *GetParam());
  for (const float y : Multiply(*backend, lifted, std::vector<float>(64), {0})) EXPECT_EQ(y, 0.0f);
}

TEST_P(EachTable, PlanesNobodyReadsAreNotTouched) {
  ExpectUnreadPlanesAreNotTouched(*GetParam(), 0);
}

INSTANTIATE_TEST_SUITE_P(Tables, EachTable, testing::ValuesIn(AllTables()),
                         [](const auto& info) { return TableName(info.param); });

}  // namespace
}  // namespace lift
