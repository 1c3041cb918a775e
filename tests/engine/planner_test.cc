#include "server/engine/planner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "server/engine/state_pool.h"

namespace lift {
namespace {

PlanSequence Waiting(uint64_t arrival, int64_t tokens, int priority = 0) {
  return {.running = false,
          .priority = priority,
          .arrival = arrival,
          .prompt_tokens = tokens,
          .known_tokens = tokens,
          .computed_tokens = 0,
          .blocks = 0};
}
PlanSequence Decoding(uint64_t arrival, int64_t prompt, int64_t known, int64_t blocks) {
  return {.running = true,
          .priority = 0,
          .arrival = arrival,
          .prompt_tokens = prompt,
          .known_tokens = known,
          .computed_tokens = known - 1,
          .blocks = blocks};
}
using testing::ElementsAre;
using testing::IsEmpty;

TEST(Planner, DecodesFirstThenFillsTheBudgetInOrder) {
  const std::vector<PlanSequence> s = {Waiting(3, 10), Decoding(1, 4, 6, 2), Waiting(2, 5)};
  const StepPlan plan =
      PlanStep(s, {.max_batch = 8, .prefill_tokens = 8, .block_tokens = 4, .free_blocks = 20});
  EXPECT_THAT(plan.chunks, ElementsAre(PlanChunk{1, 1}, PlanChunk{2, 5}, PlanChunk{0, 3}));
  EXPECT_THAT(plan.admit, ElementsAre(2, 0));
  EXPECT_THAT(plan.preempt, IsEmpty());
}

TEST(Planner, PriorityComesBeforeArrivalAndTheBatchIsBounded) {
  const std::vector<PlanSequence> s = {Waiting(1, 2), Waiting(2, 2, 5), Waiting(3, 2)};
  const StepPlan plan =
      PlanStep(s, {.max_batch = 2, .prefill_tokens = 100, .block_tokens = 4, .free_blocks = 20});
  EXPECT_THAT(plan.admit, ElementsAre(1, 0));
}

TEST(Planner, NobodyPassesOneWhoDoesNotFit) {
  const std::vector<PlanSequence> s = {Waiting(1, 40), Waiting(2, 1), Decoding(0, 1, 2, 1)};
  const StepPlan plan =
      PlanStep(s, {.max_batch = 8, .prefill_tokens = 64, .block_tokens = 4, .free_blocks = 9});
  EXPECT_THAT(plan.admit, IsEmpty());
  EXPECT_THAT(plan.chunks, ElementsAre(PlanChunk{2, 1}));
}

TEST(Planner, TheLastInOrderIsPreempted) {
  // Both need a block (their last token starts one) and one is free.
  const std::vector<PlanSequence> s = {Decoding(2, 4, 9, 2), Decoding(1, 4, 9, 2),
                                       Decoding(3, 4, 9, 2)};
  const PlanLimits limits{
      .max_batch = 8, .prefill_tokens = 64, .block_tokens = 4, .free_blocks = 0};
  const StepPlan plan = PlanStep(s, limits);
  EXPECT_THAT(plan.preempt, ElementsAre(2));
  EXPECT_THAT(plan.chunks, ElementsAre(PlanChunk{1, 1}, PlanChunk{0, 1}));
  EXPECT_THAT(plan.admit, IsEmpty());
}

TEST(Planner, ChunksStopAtTheEndOfThePrompt) {
  PlanSequence recomputing{.running = true,
                           .priority = 0,
                           .arrival = 1,
                           .prompt_tokens = 10,
                           .known_tokens = 16,
                           .computed_tokens = 6,
                           .blocks = 4};
  const PlanLimits limits{
      .max_batch = 8, .prefill_tokens = 64, .block_tokens = 4, .free_blocks = 0};
  EXPECT_THAT(PlanStep(std::vector{recomputing}, limits).chunks, ElementsAre(PlanChunk{0, 4}));
  recomputing.computed_tokens = 10;
  EXPECT_THAT(PlanStep(std::vector{recomputing}, limits).chunks, ElementsAre(PlanChunk{0, 6}));
}

// A whole pool's life by plans alone: everybody finishes, nothing is promised twice, steps stay
// within their limits.
TEST(PlannerProperty, EverybodyFinishesWithinTheLimits) {
  std::mt19937_64 rng(5);
  for (int trial = 0; trial < 400; ++trial) {
    const int64_t block_tokens = 1 + static_cast<int64_t>(rng() % 5);
    const int64_t total = 6 + static_cast<int64_t>(rng() % 12);
    const auto most = static_cast<uint64_t>(total * block_tokens);
    std::vector<PlanSequence> s;
    std::vector<int64_t> end;  // known tokens at which each is done
    for (uint64_t i = 0; i < 1 + rng() % 10; ++i) {
      s.push_back(
          Waiting(i, 1 + static_cast<int64_t>(rng() % (most / 2)), static_cast<int>(rng() % 2)));
      end.push_back(s.back().prompt_tokens + 1 + static_cast<int64_t>(rng() % (most / 2)));
    }
    const int64_t max_batch = 1 + static_cast<int64_t>(rng() % 6);
    const int64_t budget = 1 + static_cast<int64_t>(rng() % 20);
    int64_t steps = 0;
    while (!s.empty()) {
      ASSERT_LT(++steps, 20000) << "trial " << trial;
      int64_t held = 0;
      for (const PlanSequence& x : s) held += x.blocks;
      ASSERT_LE(held, total);
      const StepPlan plan = PlanStep(s, {max_batch, budget, block_tokens, total - held});
      ASSERT_FALSE(plan.chunks.empty());
      for (const size_t i : plan.preempt) {
        ASSERT_TRUE(s[i].running);
        s[i].running = false;
        s[i].blocks = s[i].computed_tokens = 0;
      }
      for (const size_t i : plan.admit) {
        ASSERT_FALSE(s[i].running);
        s[i].running = true;
        s[i].blocks = BlocksFor(s[i].known_tokens, block_tokens);
      }
      ASSERT_LE(std::count_if(s.begin(), s.end(), [](auto& x) { return x.running; }), max_batch);
      int64_t prefill = 0;
      for (const PlanChunk& chunk : plan.chunks) {
        PlanSequence& x = s[chunk.sequence];
        ASSERT_TRUE(x.running && chunk.tokens > 0);
        const bool decoding =
            x.computed_tokens >= x.prompt_tokens && x.known_tokens - x.computed_tokens == 1;
        if (!decoding) prefill += chunk.tokens;
        if (x.computed_tokens < x.prompt_tokens) {
          ASSERT_LE(x.computed_tokens + chunk.tokens, x.prompt_tokens);
        }
        x.computed_tokens += chunk.tokens;
        x.blocks = std::max(x.blocks, BlocksFor(x.computed_tokens, block_tokens));
        if (x.computed_tokens == x.known_tokens) ++x.known_tokens;
      }
      ASSERT_LE(prefill, budget);
      for (size_t i = s.size(); i-- > 0;) {
        if (s[i].known_tokens < end[i]) continue;
        s.erase(s.begin() + static_cast<std::ptrdiff_t>(i));
        end.erase(end.begin() + static_cast<std::ptrdiff_t>(i));
      }
    }
  }
}

TEST(BlockPoolTest, CountsReferences) {
  BlockPool pool(4);
  BlockTable a(pool, 4);
  a.Cover(9);
  EXPECT_EQ(a.size(), 3);
  EXPECT_EQ(pool.used(), 3);
  a.Cover(5);  // never shrinks
  EXPECT_EQ(a.size(), 3);
  {
    BlockTable b(pool, 4);
    b.Share(a, 2);
    EXPECT_EQ(pool.used(), 3);
    EXPECT_EQ(b.HeldBytes(100), 100u);
    EXPECT_EQ(a.HeldBytes(100), 200u);
    b.Cover(12);
    EXPECT_EQ(pool.free(), 0);
    a.Clear();
    EXPECT_EQ(pool.used(), 3);  // b still holds the shared ones
    EXPECT_EQ(b.HeldBytes(100), 300u);
  }
  EXPECT_EQ(pool.used(), 0);
}

}  // namespace
}  // namespace lift
