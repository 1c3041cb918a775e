// Rows of prompts: kPrefillRow.
#include <gtest/gtest.h>

#include <cmath>
#include <deque>
#include <limits>
#include <map>
#include <string>

#include "kernels/reference/reference.h"
#include "tests/kernels/kernel_tables.h"
#include "tests/kernels/lifted_case.h"

namespace lift {
namespace {

std::vector<uint8_t> AllPrompts(int64_t tokens, int variant) {
  return std::vector<uint8_t>(static_cast<size_t>(tokens),
                              static_cast<uint8_t>(variant | kPrefillRow));
}

class PrefillKernels : public testing::TestWithParam<std::tuple<const cpu::Kernels*, Shape>> {};

TEST_P(PrefillKernels, MatmulMatchesOracle) {
  const auto& [table, shape] = GetParam();
  const RandomLifted lifted = MakeLifted(shape, 21);
  ThreadPool pool(2);
  const auto backend = cpu::MakeCpuBackendOn(pool, *table);
  const std::vector<float> x = RandomFloats(shape.tokens * shape.cols, 5);
  static std::map<std::string, reference::Expected> cache;  // the oracle is slow, tables are many
  for (const int variant : {0, 1, 2, 3, 4}) {
    reference::Expected& want = cache[shape.name + std::to_string(variant)];
    if (want.values.empty()) {
      want = reference::PrefillMatmul(lifted.matrix, lifted.site, lifted.rotation_spec, x,
                                      shape.tokens, variant);
    }
    EXPECT_EQ(
        reference::Mismatch(Multiply(*backend, lifted, x, AllPrompts(shape.tokens, variant)), want),
        "")
        << "variant " << variant;
  }
}

// Beside answers' rows, in any company, on any table and number of threads.
TEST_P(PrefillKernels, EqualToTheBitOverThreadsBatchesAndTables) {
  const auto& [table, shape] = GetParam();
  const RandomLifted lifted = MakeLifted(shape, 22);
  const std::vector<float> x = RandomFloats(shape.tokens * shape.cols, 6);
  std::vector<uint8_t> variants = MixedVariants(shape.tokens);
  for (size_t t = 0; t < variants.size(); t += 2) variants[t] |= kPrefillRow;
  const std::vector<float> want = ExpectSameBitsOnAnyThreads(*table, lifted, x, variants);
  ThreadPool one(1);
  const auto backend = cpu::MakeCpuBackendOn(one, *table);
  const auto cols = static_cast<size_t>(shape.cols), rows = static_cast<size_t>(shape.rows);
  for (size_t t = 0; t < variants.size(); ++t) {
    const std::vector<float> row(x.begin() + static_cast<std::ptrdiff_t>(t * cols),
                                 x.begin() + static_cast<std::ptrdiff_t>((t + 1) * cols));
    EXPECT_TRUE(SameBits(Multiply(*backend, lifted, row, {variants[t]}),
                         std::span(want).subspan(t * rows, rows)))
        << "token " << t << " alone";
  }
}

INSTANTIATE_TEST_SUITE_P(TablesByShapes, PrefillKernels,
                         testing::Combine(testing::ValuesIn(AllTables()),
                                          testing::ValuesIn(Shapes())),
                         TableByShapeName);

class EachTable : public testing::TestWithParam<const cpu::Kernels*> {};

// More rows than are summed at once, in two variants that need different roundings.
TEST_P(EachTable, ManyRowsGiveTheBitsOfFew) {
  RandomLifted lifted(40, 96, {{2, 1, 9, 0}, {1, 1, 14, 1}, {2, 0, 8, 2}}, {true, 4}, 3);
  lifted.AddVariant({40, 40, 0}, 0);
  lifted.AddVariant({40, 40, 40}, 3);
  constexpr int64_t kRows = 1100;
  const std::vector<float> x = RandomFloats(kRows * 96, 2);
  std::vector<uint8_t> variants(kRows);
  for (size_t t = 0; t < variants.size(); ++t) variants[t] = kPrefillRow | (t % 3 == 0 ? 1 : 0);
  ThreadPool pool(2);
  const auto backend = cpu::MakeCpuBackendOn(pool, *GetParam());
  const std::vector<float> y = Multiply(*backend, lifted, x, variants);
  for (size_t t = 0; t < variants.size(); t += 50) {
    const auto at = static_cast<std::ptrdiff_t>(t);
    const std::vector<float> some(x.begin() + 96 * at, x.begin() + 96 * (at + 50));
    const std::vector<uint8_t> theirs(variants.begin() + at, variants.begin() + at + 50);
    EXPECT_TRUE(
        SameBits(Multiply(*backend, lifted, some, theirs), std::span(y).subspan(40 * t, 40 * 50)))
        << t;
  }
}

// Windows of more than four table entries are not decoded: such a site's prompts are lifted.
TEST_P(EachTable, LongCodesAreLifted) {
  RandomLifted lifted(20, 64, {{1, 0, 29, 0}}, {true, 4}, 3);
  lifted.AddVariant({20}, 0);
  const std::vector<float> x = RandomFloats(3 * 64, 2);
  ThreadPool pool(1);
  const auto backend = cpu::MakeCpuBackendOn(pool, *GetParam());
  EXPECT_TRUE(SameBits(Multiply(*backend, lifted, x, AllPrompts(3, 0)),
                       Multiply(*backend, lifted, x, {0, 0, 0})));
}

TEST_P(EachTable, NotANumberReachesItsOwnRowOnly) {
  ExpectNotANumberStaysInItsRow(*GetParam(), kPrefillRow);
}

TEST_P(EachTable, PlanesNobodyReadsAreNotTouched) {
  ExpectUnreadPlanesAreNotTouched(*GetParam(), kPrefillRow);
}

INSTANTIATE_TEST_SUITE_P(Tables, EachTable, testing::ValuesIn(AllTables()),
                         [](const auto& info) { return TableName(info.param); });

}  // namespace
}  // namespace lift
