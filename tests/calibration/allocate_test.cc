#include "calibration/allocate.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace lift {
namespace {

std::vector<TensorCost> RandomTensors(uint64_t seed, int count, int stages) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> uniform;
  std::vector<TensorCost> tensors;
  for (int i = 0; i < count; ++i) {
    TensorCost t{std::string("t").append(std::to_string(i)), {}, {1.0}, uniform(random)};
    for (int j = 0; j < stages; ++j) {
      t.stage_bytes.push_back(64 * (1 + random() % 100));
      t.error.push_back(t.error.back() * (0.05 + 0.5 * uniform(random)));
    }
    tensors.push_back(t);
  }
  return tensors;
}

TEST(Allocate, OrderIsNestedAndComplete) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const auto tensors = RandomTensors(seed, 12, 5);
    const auto order = GlobalPlaneOrder(tensors);
    ASSERT_EQ(order.size(), 60u);
    std::vector<int> next(12, 0);
    for (size_t i = 0; i < order.size(); ++i) {
      EXPECT_EQ(order[i].stage, next[static_cast<size_t>(order[i].tensor)]++);
      if (i < 12) {
        EXPECT_EQ(order[i].stage, 0) << "every variant needs a first stage of every tensor";
      }
    }
  }
}

TEST(Allocate, PredictedKlFallsStrictlyWithBytes) {
  const auto tensors = RandomTensors(3, 8, 4);
  const auto order = GlobalPlaneOrder(tensors);
  uint64_t total = 0;
  for (const auto& t : tensors)
    for (uint64_t b : t.stage_bytes) total += b;
  double last = 1e9;
  for (uint64_t bytes = 0; bytes <= total; bytes += total / 37) {
    const double kl = PredictedKl(tensors, order, bytes);
    EXPECT_LT(kl, last);
    last = kl;
  }
}

// With two tensors of equal size and falling returns, the sensitive one gets its planes first.
TEST(Allocate, SensitiveTensorsComeFirst) {
  std::vector<TensorCost> tensors = {{"dull", {100, 100}, {1, .1, .01}, 0.1},
                                     {"sharp", {100, 100}, {1, .1, .01}, 5.0}};
  const auto order = GlobalPlaneOrder(tensors);
  EXPECT_EQ(order[2].tensor, 1);
  EXPECT_EQ(order[3].tensor, 0);
}

// A weak stage before a strong one is judged by the run's average.
TEST(Allocate, AWeakStageDoesNotHideAStrongOne) {
  std::vector<TensorCost> tensors = {{"a", {100, 100, 100}, {1, .5, .49, .01}, 1.0},
                                     {"b", {100, 100, 100}, {1, .5, .4, .3}, 1.0}};
  const auto order = GlobalPlaneOrder(tensors);
  EXPECT_EQ(order[2].tensor, 0);
  EXPECT_EQ(order[3].tensor, 0);
}

// Greedy by ratio is optimal at its own break points when returns fall: check against all
// prefixes-per-tensor choices.
TEST(Allocate, GreedyMatchesExhaustiveSearchAtBreakPoints) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    auto tensors = RandomTensors(100 + seed, 4, 3);
    for (auto& t : tensors) {
      t.stage_bytes = {640, 640, 640};
      t.error = {1, .2, .04, .008};  // convex
    }
    const auto order = GlobalPlaneOrder(tensors);
    uint64_t bytes = 4 * 640;
    for (size_t k = 4; k < order.size(); ++k) {
      bytes += 640;
      double best = 1e9;
      for (int code = 0; code < 81; ++code) {
        uint64_t used = 0;
        double kl = 0;
        for (int i = 0, c = code; i < 4; ++i, c /= 3) {
          const size_t stages = static_cast<size_t>(1 + c % 3);
          used += stages * 640;
          kl += tensors[static_cast<size_t>(i)].sensitivity *
                tensors[static_cast<size_t>(i)].error[stages];
        }
        if (used <= bytes) best = std::min(best, kl);
      }
      EXPECT_NEAR(PredictedKl(tensors, order, bytes), best, 1e-9);
    }
  }
}

TEST(ChainForBits, FollowsTheVariantsAskedFor) {
  EXPECT_EQ(ChainForBits({2, 2.5, 3, 4, 6, 8}), (std::vector<int>{2, 1, 1, 2, 2}));
  EXPECT_EQ(ChainForBits({2, 2.5, 3, 4, 5, 6, 8}), (std::vector<int>{2, 1, 1, 1, 1, 2}));
  EXPECT_EQ(ChainForBits({4, 8}), (std::vector<int>{2, 2, 2, 2}));
  EXPECT_EQ(ChainForBits({7}), (std::vector<int>{2, 2, 2, 1}));
}

TEST(ChainForBits, LeavesTheFinestRoomToChoose) {
  EXPECT_EQ(ChainForBits({2}), (std::vector<int>{2, 1}));
  EXPECT_EQ(ChainForBits({4, 2}), (std::vector<int>{2, 2, 1}));
  EXPECT_EQ(ChainForBits({3, 4}), (std::vector<int>{2, 1, 1, 1}));
  EXPECT_EQ(ChainForBits({1.5}), (std::vector<int>{1, 1, 1}));
  EXPECT_EQ(ChainForBits({4}), (std::vector<int>{2, 2, 1}));
  EXPECT_EQ(ChainForBits({5}), (std::vector<int>{2, 2, 1, 1}));
}

}  // namespace
}  // namespace lift
