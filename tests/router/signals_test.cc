// What logits tell the router.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
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
  for (const float none : {-kInf, kNan}) {  // no chance counts as e^-80
    EXPECT_NEAR(KlOfLogits(odds, std::vector<float>{0, none}),
                0.25 * 80 + 0.75 * std::log(0.75) + 0.25 * std::log(0.25), 1e-4);
  }
  EXPECT_NEAR(KlOfLogits(std::vector<float>{0, -kInf}, even), std::log(2.0), 1e-6);
}

// Against the plain formulas in double, for vocabularies that fill no block or lane.
TEST(Signals, EqualThePlainSums) {
  std::mt19937 random(4);
  std::normal_distribution<float> normal(0, 4);
  for (const size_t count : {1, 2, 15, 17, 1024, 1025, 5000}) {
    std::vector<float> fine(count), coarse(count);
    for (size_t i = 0; i < count; ++i)
      fine[i] = normal(random), coarse[i] = fine[i] + normal(random);
    double fine_sum = 0, coarse_sum = 0, entropy = 0, kl = 0;
    for (size_t i = 0; i < count; ++i) {
      fine_sum += std::exp(static_cast<double>(fine[i]));
      coarse_sum += std::exp(static_cast<double>(coarse[i]));
    }
    for (size_t i = 0; i < count; ++i) {
      const double p = static_cast<double>(fine[i]) - std::log(fine_sum),
                   q = static_cast<double>(coarse[i]) - std::log(coarse_sum);
      entropy -= std::exp(p) * p;
      kl += std::exp(p) * (p - q);
    }
    EXPECT_NEAR(KlOfLogits(fine, coarse), kl, 2e-5 * (1 + kl)) << count;
    EXPECT_NEAR(SignalsFromLogits(fine, 1).last_entropy, entropy, 2e-5) << count;
  }
}

}  // namespace
}  // namespace lift::router
