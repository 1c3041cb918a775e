#include "calibration/strips.h"

#include <gtest/gtest.h>

#include <numeric>

namespace lift {
namespace {

TEST(Strips, CoverTheVocabularyAndWeighByUse) {
  std::vector<int64_t> counts(10007, 0);
  for (size_t i = 0; i < 1000; ++i) counts[i] = 100;
  const std::vector<Strip> strips = VocabularyStrips(counts);
  ASSERT_GT(strips.size(), 4u);
  int64_t next = 0;
  double mean = 0;
  for (const Strip& strip : strips) {
    EXPECT_EQ(strip.begin, next);
    EXPECT_GT(strip.rows, 0);
    if (&strip != &strips.back()) {
      EXPECT_EQ(strip.rows % 32, 0);
    }
    next += strip.rows;
    mean += strip.weight * static_cast<double>(strip.rows) / 10007;
  }
  EXPECT_EQ(next, 10007);
  EXPECT_NEAR(mean, 1.0, 1e-9);
  EXPECT_GT(strips.front().weight, 5);
  EXPECT_LT(strips.back().weight, 0.1);
  EXPECT_GT(strips.back().weight, 0);  // text to come holds other tokens
}

TEST(Strips, SmallVocabulariesStayWhole) {
  const std::vector<int64_t> counts(300, 7);
  const std::vector<Strip> strips = VocabularyStrips(counts);
  ASSERT_EQ(strips.size(), 1u);
  EXPECT_EQ(strips[0].rows, 300);
  EXPECT_EQ(strips[0].weight, 1.0);
}

TEST(Strips, RareOnesMayStartCoarser) {
  EXPECT_EQ(StripChain({2, 1, 1}, 1.0), (std::vector<int>{2, 1, 1}));
  EXPECT_EQ(StripChain({2, 1, 1}, 0.05), (std::vector<int>{1, 1, 1, 1}));
  EXPECT_EQ(StripChain({3, 1}, 0.05), (std::vector<int>{1, 2, 1}));
  EXPECT_EQ(StripChain({1, 2}, 0.05), (std::vector<int>{1, 2}));  // cannot be coarser
}

}  // namespace
}  // namespace lift
