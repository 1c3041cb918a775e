#include "router/pressure.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "tests/router/random_router.h"

namespace lift::router {
namespace {

TEST(Pressure, RisesFastAndFallsSlowly) {
  PressureGauge gauge;
  double up = 0;
  for (int i = 0; i < 20; ++i) up = gauge.Update(1, 0.05);
  EXPECT_GT(up, 0.85);  // a second
  double down = up;
  for (int i = 0; i < 20; ++i) down = gauge.Update(0, 0.05);
  EXPECT_GT(down, 0.7 * up);
  for (int i = 0; i < 600; ++i) down = gauge.Update(0, 0.05);
  EXPECT_LT(down, 0.01);
}

TEST(Pressure, StaysBetweenWhatItWasAndWhatItSees) {
  test::RandomRouter random(1);
  PressureGauge gauge;
  for (int i = 0; i < 10000; ++i) {
    const double before = gauge.value(), fraction = random.Real(0, 1.5);
    const double after = gauge.Update(fraction, random.Real(-1, 100));
    EXPECT_GE(after, std::min(before, fraction));
    EXPECT_LE(after, std::max(before, fraction));
  }
}

TEST(Pressure, OneSampleAfterALongPauseIsNoOverload) {
  PressureGauge gauge;
  EXPECT_LT(gauge.Update(1, 3600), 0.9);
}

// Three times what the finest variant can serve arrives for a minute, then a tenth: precision falls
// and stays down without swinging, then comes back.
TEST(Pressure, AnOverloadedQueueSettlesAndRecovers) {
  test::RandomRouter random(2);
  RouterConfig config;
  config.predictor =
      *Predictor::Create({.base = 0,
                          .trees = {},
                          .curve = {{2, -1.5, 1}, {3, -3, 1}, {4, -4.5, 1}, {6, -6.5, 1}},
                          .finest_bits = 8,
                          .quantiles = {-1, -0.5, 0, 0.5, 1},
                          .version = "",
                          .report = ""});
  config.policy = *ParsePolicy("budget:6");
  const std::vector<VariantView> variants = {{"q2", 0.25, 2, 0.22, 2},
                                             {"q3", 0.4, 3, 0.05, 3},
                                             {"q4", 0.5, 4, 0.011, 4},
                                             {"q6", 0.65, 6, 0.0015, 6},
                                             {"q8", 0.75, 8, 0.0001, 8}};
  constexpr double kQueue = 100, kStep = 0.02;  // seconds; at 8 bits 20 requests/s are served
  double waiting = 0;
  PressureGauge gauge;
  std::vector<double> bits_at;
  for (double t = 0; t < 180; t += kStep) {
    const double rate = t < 60 ? 60 : 2;
    const double pressure = gauge.Update(waiting / kQueue, kStep);
    const auto d = Route(random.Text(), random.Prefill(), {}, variants, {pressure}, config);
    const double bits = variants[static_cast<size_t>(d->variant)].bits_per_weight;
    bits_at.push_back(bits);
    waiting = std::clamp(waiting + (rate - 160 / bits) * kStep, 0.0, kQueue);
  }
  const auto mean = [&](double from, double to) {
    double sum = 0;
    int n = 0;
    for (auto i = static_cast<size_t>(from / kStep); i < static_cast<size_t>(to / kStep); ++i) {
      sum += bits_at[i], ++n;
    }
    return sum / n;
  };
  EXPECT_GT(mean(0, 0.3), 5.5);
  EXPECT_LT(mean(20, 60), 3.2);  // what keeps up: 160 / 60 bits
  // Means of five seconds hardly move once it has settled: no swinging.
  double low = 100, high = 0;
  for (double t = 20; t < 60; t += 5) {
    low = std::min(low, mean(t, t + 5)), high = std::max(high, mean(t, t + 5));
  }
  EXPECT_LT(high - low, 0.5);
  EXPECT_GT(mean(150, 180), 5.5);  // recovered
}

}  // namespace
}  // namespace lift::router
