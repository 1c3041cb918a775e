// What logits tell the router.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "router/router.h"

namespace lift::router {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(Signals, EntropyAndMargin) {
  const std::vector<float> flat(100, 1.5F);
  const PrefillSignals unsure = SignalsFromLogits(flat, 7);
  EXPECT_TRUE(unsure.available);
  EXPECT_EQ(unsure.prompt_tokens, 7);
  EXPECT_NEAR(unsure.last_entropy, std::log(100.0), 1e-6);
  EXPECT_NEAR(unsure.last_margin, 0, 1e-9);
  const std::vector<float> two = {std::log(0.75F), std::log(0.25F)};
  const PrefillSignals sure = SignalsFromLogits(two, 1);
  EXPECT_NEAR(sure.last_margin, 0.5, 1e-6);
  EXPECT_NEAR(sure.last_entropy, 0.5623351, 1e-6);
  EXPECT_FALSE(SignalsFromLogits({}, 0).available);
  EXPECT_FALSE(SignalsFromLogits(std::vector<float>{kNan, -kInf}, 0).available);
  const PrefillSignals one = SignalsFromLogits(std::vector<float>{kNan, 3, -kInf}, 0);
  EXPECT_NEAR(one.last_entropy, 0, 1e-9);
  EXPECT_NEAR(one.last_margin, 1, 1e-9);
}

TEST(Signals, DivergenceOfTwoDistributions) {
  const std::vector<float> even = {0, 0}, odds = {std::log(3.0F), 0};
  EXPECT_NEAR(KlOfLogits(even, odds), 0.5 * std::log(4.0 / 3), 1e-6);
  EXPECT_NEAR(KlOfLogits(odds, even), 0.75 * std::log(1.5) - 0.25 * std::log(2.0), 1e-6);
  EXPECT_EQ(KlOfLogits(odds, odds), 0);
  EXPECT_NEAR(KlOfLogits(odds, std::vector<float>{kInf, kInf}), -1, 0);
  EXPECT_EQ(KlOfLogits(odds, std::vector<float>{kNan, kNan}), -1);
  EXPECT_EQ(KlOfLogits(odds, std::vector<float>{0, -kInf}), 1000);  // not more
  EXPECT_EQ(KlOfLogits(odds, std::vector<float>{0, kNan}), -1);
  EXPECT_NEAR(KlOfLogits(std::vector<float>{0, -kInf}, even), std::log(2.0), 1e-6);
}

}  // namespace
}  // namespace lift::router
