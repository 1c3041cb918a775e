// Which way sums are made never shows in them.
#include <gtest/gtest.h>

#include "kernels/cpu/tuning_impl.h"
#include "tests/kernels/lifted_case.h"

namespace lift {
namespace {

CpuTuning Uniform(int most) {
  CpuTuning tuning;
  for (auto& row : tuning.most) std::fill(row, std::end(row), most);
  return tuning;
}

// Out of range, too: a backend takes what it can.
CpuTuning RandomTuning(uint64_t seed) {
  CpuTuning tuning;
  std::mt19937_64 random(seed);
  for (auto& row : tuning.most) {
    for (int& most : row) most = static_cast<int>(random() % 40) - 4;
  }
  return tuning;
}

std::vector<CpuTuning> Tunings() {
  return {Uniform(0),      Uniform(CpuTuning::kMostColumns),
          Uniform(1),      Uniform(3),
          Uniform(6),      RandomTuning(1),
          RandomTuning(2), RandomTuning(3)};
}

// Columns of one way's times and the other's.
std::vector<CpuTuningPoint> Points(CodeStreams code, const std::vector<int>& columns,
                                   const std::vector<double>& ratios) {
  std::vector<CpuTuningPoint> points;
  for (size_t i = 0; i < columns.size(); ++i) {
    points.push_back({code, columns[i], 1e6, 1e-3, 1e-3 * ratios[i]});
  }
  return points;
}

class Tuning : public testing::TestWithParam<const cpu::Kernels*> {};

// Every code a table can look up and one it cannot, enough rows for tables to be made, some tokens
// wide, some that stop at another row.
TEST_P(Tuning, NeverChangesABit) {
  const Shape shapes[] = {
      {"calibrations", 304, 96, 17, {{1, 1, 8, 0, true}, {2, 1, 8, 1, true}, {1, 0, 6, 2}}, true},
      {"more", 272, 65, 17, {{3, 1, 8, 0, true}, {4, 1, 7, 1, true}, {2, 0, 6, 2}}, true},
      {"others", 320, 33, 17, {{1, 1, 8, 0}, {3, 0, 6, 1}, {4, 0, 5, 2}, {2, 2, 8, 3}}, false}};
  for (const Shape& shape : shapes) {
    const RandomLifted lifted = MakeLifted(shape, 21);
    for (int64_t tokens = 1; tokens <= shape.tokens; ++tokens) {
      const std::vector<float> x = RandomFloats(tokens * shape.cols, 22);
      const std::vector<uint8_t> variants = MixedVariants(tokens);
      ThreadPool one(1), two(2);
      const auto portable = cpu::MakeCpuBackendOn(one, cpu::PortableKernels());
      const std::vector<float> want = Multiply(*portable, lifted, x, variants);
      for (const CpuTuning& tuning : Tunings()) {
        const auto backend = cpu::MakeCpuBackendOn(two, *GetParam(), tuning);
        ASSERT_TRUE(SameBits(Multiply(*backend, lifted, x, variants), want))
            << shape.name << ", " << tokens << " tokens";
      }
    }
  }
}

TEST_P(Tuning, TheDefaultIsTheTablesConstants) {
  const cpu::Kernels& kernels = *GetParam();
  const CpuTuning standard = cpu::DefaultTuning(kernels);
  EXPECT_EQ(cpu::TunableCodes(kernels).empty(), kernels.lookups.columns == 0);
  for (const CodeStreams code : cpu::TunableCodes(kernels)) {
    EXPECT_EQ(standard.at(code), kernels.lookups.most);
  }
  EXPECT_EQ(cpu::AllowedTuning(kernels, standard), standard);
  EXPECT_EQ(cpu::AllowedTuning(kernels, Uniform(0)), Uniform(0));
  EXPECT_LE(cpu::AllowedTuning(kernels, Uniform(1 << 30)).Largest(), CpuTuning::kMostColumns);
  EXPECT_EQ(cpu::AllowedTuning(kernels, Uniform(-1)), Uniform(0));
}

TEST_P(Tuning, WhatIsMeasuredIsAllowed) {
  const cpu::Kernels& kernels = *GetParam();
  for (const int threads : {1, 2}) {
    ThreadPool pool(threads);
    const CpuTuningReport report = cpu::MeasureTuning(
        pool, kernels,
        {.seconds = 0, .rows = 300, .rows_of_few = 512, .cols = 90, .plane_bytes = 1});
    EXPECT_EQ(cpu::AllowedTuning(kernels, report.tuning), report.tuning);
    EXPECT_EQ(report.points.size() % std::max<size_t>(cpu::TunableCodes(kernels).size(), 1), 0u);
    for (const CpuTuningPoint& p : report.points) {
      EXPECT_TRUE(p.columns >= 1 && p.columns <= CpuTuning::kMostColumns);
      EXPECT_TRUE(p.lookup_seconds > 0 && p.product_seconds > 0 && p.signs > 0);
      const int most = report.tuning.at(p.code);
      EXPECT_TRUE(most >= 0 && most <= CpuTuning::kMostColumns);
    }
  }
}

// Without points, within the noise and with times that no clock gives the default stays.
TEST_P(Tuning, TheDefaultStaysUntilTheTimesSayOtherwise) {
  const cpu::Kernels& kernels = *GetParam();
  const CpuTuning standard = cpu::DefaultTuning(kernels);
  EXPECT_EQ(cpu::ChooseTuning(kernels, {}), standard);
  for (const CodeStreams code : cpu::TunableCodes(kernels)) {
    const std::vector<int> counts = {1, 2, 4, 8, 16, 32};
    const auto choose = [&](const std::vector<double>& products_over_tables) {
      return cpu::ChooseTuning(kernels, Points(code, counts, products_over_tables)).at(code);
    };
    EXPECT_EQ(choose({1.02, 0.98, 1.02, 0.98, 1.02, 0.98}), standard.at(code));
    EXPECT_LE(choose({0, -1, NAN, INFINITY, 1, 1}), CpuTuning::kMostColumns);
    EXPECT_EQ(choose({.9, .9, .9, .9, .9, .9}), 0);
    EXPECT_EQ(choose({1.1, 1.1, 1.1, 1.1, 1.1, 1.1}), 32);
    EXPECT_EQ(choose({1.5, 1.5, 1.5, 1.5, .7, .7}), 8);
    EXPECT_EQ(choose({.97, 1.5, 1.5, 1.5, .7, .7}), 8);  // one count against four
    CpuTuning others = cpu::ChooseTuning(kernels, Points(code, counts, {.9, .9, .9, .9, .9, .9}));
    others.at(code) = standard.at(code);
    EXPECT_EQ(others, standard);
  }
}

INSTANTIATE_TEST_SUITE_P(Tables, Tuning, testing::ValuesIn(AllTables()),
                         [](const auto& info) { return TableName(info.param); });

}  // namespace
}  // namespace lift
