#include "server/engine/planner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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
          .segment_tokens = tokens,
          .most_tokens = tokens + 100,
          .blocks = 0};
}
PlanSequence Decoding(uint64_t arrival, int64_t prompt, int64_t known, int64_t blocks) {
  return {.running = true,
          .priority = 0,
          .arrival = arrival,
          .prompt_tokens = prompt,
          .known_tokens = known,
          .computed_tokens = known - 1,
          .segment_tokens = 1,
          .most_tokens = known + 100,
          .blocks = blocks,
          .owned_blocks = blocks};
}
using testing::ElementsAre;
using testing::IsEmpty;

TEST(Planner, DecodesFirstThenFillsTheBudgetInOrder) {
  const std::vector<PlanSequence> s = {Waiting(3, 10), Decoding(1, 4, 6, 2), Waiting(2, 5)};
  const StepPlan plan = PlanStep(s, {.max_batch = 8,
                                     .prefill_tokens = 9,
                                     .prefill_beside = 8,
                                     .block_tokens = 4,
                                     .free_blocks = 20});
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
  const StepPlan plan = PlanStep(s, {.max_batch = 8,
                                     .prefill_tokens = 64,
                                     .prefill_beside = 64,
                                     .block_tokens = 4,
                                     .free_blocks = 9});
  EXPECT_THAT(plan.admit, IsEmpty());
  EXPECT_THAT(plan.chunks, ElementsAre(PlanChunk{2, 1}));
}

TEST(Planner, TheLastInOrderIsPreempted) {
  // Both need a block (their last token starts one) and one is free.
  const std::vector<PlanSequence> s = {Decoding(2, 4, 9, 2), Decoding(1, 4, 9, 2),
                                       Decoding(3, 4, 9, 2)};
  const PlanLimits limits{.max_batch = 8,
                          .prefill_tokens = 64,
                          .prefill_beside = 64,
                          .block_tokens = 4,
                          .free_blocks = 0};
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
                           .segment_tokens = 4,
                           .most_tokens = 20,
                           .blocks = 4,
                           .owned_blocks = 4};
  const PlanLimits limits{.max_batch = 8,
                          .prefill_tokens = 64,
                          .prefill_beside = 64,
                          .block_tokens = 4,
                          .free_blocks = 0};
  EXPECT_THAT(PlanStep(std::vector{recomputing}, limits).chunks, ElementsAre(PlanChunk{0, 4}));
  recomputing.computed_tokens = 10;
  recomputing.segment_tokens = 6;
  EXPECT_THAT(PlanStep(std::vector{recomputing}, limits).chunks, ElementsAre(PlanChunk{0, 6}));
}

TEST(Planner, TenantsTakeTurnsByCredit) {
  std::vector<PlanSequence> s;
  for (uint64_t i = 0; i < 6; ++i) s.push_back(Waiting(i, 2, 50));  // tenant 0 came first, loudly
  for (uint64_t i = 6; i < 8; ++i) {
    s.push_back(Waiting(i, 2));
    s.back().tenant = 1;
  }
  const std::vector<double> even = {0, 0}, owed = {-10, 0};
  PlanLimits limits{.max_batch = 4, .prefill_tokens = 100, .block_tokens = 4, .free_blocks = 20};
  limits.request_cost = 4;
  limits.credits = even;
  EXPECT_THAT(PlanStep(s, limits).admit, ElementsAre(0, 6, 1, 7));
  limits.credits = owed;
  EXPECT_THAT(PlanStep(s, limits).admit, ElementsAre(6, 7, 0, 1));
}

TEST(Planner, WaitingRaisesPriority) {
  std::vector<PlanSequence> s = {Waiting(1, 2, 3), Waiting(0, 2, 0)};
  s[1].age_us = 5000;
  PlanLimits limits{.max_batch = 1, .prefill_tokens = 9, .block_tokens = 4, .free_blocks = 20};
  EXPECT_THAT(PlanStep(s, limits).admit, ElementsAre(0));
  limits.aging_us = 1000;
  EXPECT_THAT(PlanStep(s, limits).admit, ElementsAre(1));
}

TEST(Planner, APatientTenantDisplacesOneThatHasMore) {
  std::vector<PlanSequence> s = {Decoding(1, 4, 6, 2), Decoding(2, 4, 6, 2), Waiting(3, 2)};
  s[2].tenant = 1;
  s[2].wait_us = 500;
  s[0].progress = s[1].progress = 32;
  const std::vector<double> credits = {0, 0};
  PlanLimits limits{.max_batch = 2, .prefill_tokens = 9, .block_tokens = 4, .free_blocks = 20};
  limits.credits = credits;
  limits.patience_us = 501;
  EXPECT_THAT(PlanStep(s, limits).preempt, IsEmpty());
  limits.patience_us = 500;
  EXPECT_THAT(PlanStep(s, limits).preempt, ElementsAre(1));
  s[1].progress = 31;  // it has not had its quantum
  EXPECT_THAT(PlanStep(s, limits).preempt, ElementsAre(0));
  s[2].tenant = 0;  // one's own do not make room, unless they matter less
  EXPECT_THAT(PlanStep(s, limits).preempt, IsEmpty());
  s[2].priority = 1;
  EXPECT_THAT(PlanStep(s, limits).preempt, ElementsAre(0));
}

TEST(Planner, ExpectedGrowthIsKeptFree) {
  std::vector<PlanSequence> s = {Decoding(1, 4, 8, 2), Waiting(2, 8)};
  PlanLimits limits{.max_batch = 8,
                    .prefill_tokens = 64,
                    .prefill_beside = 64,
                    .block_tokens = 4,
                    .free_blocks = 5};
  limits.growth_tokens = 16;  // four blocks for the one that runs
  EXPECT_THAT(PlanStep(s, limits).admit, IsEmpty());
  s[0].most_tokens = 12;  // but it will stop after one
  EXPECT_THAT(PlanStep(s, limits).admit, ElementsAre(1));
}

TEST(Planner, DraftsTakeOnlyWhatIsLeft) {
  std::vector<PlanSequence> s = {Decoding(1, 4, 8, 2), Decoding(2, 4, 6, 2), Waiting(3, 4)};
  s[0].drafts = s[1].drafts = 3;
  PlanLimits limits{.max_batch = 2,
                    .prefill_tokens = 64,
                    .prefill_beside = 64,
                    .step_tokens = 100,
                    .block_tokens = 4,
                    .free_blocks = 0};
  // The first has no room in its blocks, the second has two places.
  EXPECT_THAT(PlanStep(s, limits).chunks, ElementsAre(PlanChunk{0, 1, 0}, PlanChunk{1, 1, 2}));
  limits.free_blocks = 1;
  EXPECT_THAT(PlanStep(s, limits).chunks, ElementsAre(PlanChunk{0, 1, 3}, PlanChunk{1, 1, 2}));
  limits.step_tokens = 4;
  EXPECT_THAT(PlanStep(s, limits).chunks, ElementsAre(PlanChunk{0, 1, 2}, PlanChunk{1, 1, 0}));
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
    b.Append(a.blocks()[0]);
    b.Append(a.blocks()[1]);
    EXPECT_EQ(pool.used(), 3);
    EXPECT_EQ(b.HeldBytes(100), 100u);
    EXPECT_EQ(a.HeldBytes(100), 200u);
    EXPECT_EQ(a.owned(), 1);
    b.Cover(12);
    EXPECT_EQ(pool.free(), 0);
    a.Clear();
    EXPECT_EQ(pool.used(), 3);  // b still holds the shared ones
    EXPECT_EQ(b.HeldBytes(100), 300u);
  }
  EXPECT_EQ(pool.used(), 0);
}

// Two sequences that decode in a full pool: the later one makes room.
StepPlan PlanPreemption(PlanLimits limits, int64_t owned, bool swappable) {
  std::vector<PlanSequence> s = {Decoding(1, 4, 9, 2), Decoding(2, 8, 9, 2)};
  s[1].owned_blocks = owned;
  s[1].swappable = swappable;
  limits.max_batch = 8;
  limits.block_tokens = 4;
  limits.total_blocks = 4;
  return PlanStep(s, limits);
}

TEST(Planner, PreemptedStateIsSwappedWhereThatIsCheaper) {
  // 8 tokens of state in 2 blocks; out and back are 4 copies.
  const PlanLimits cheap{.free_swap_blocks = 2, .swap_block_us = 19, .compute_token_us = 10};
  const PlanLimits dear{.free_swap_blocks = 2, .swap_block_us = 20, .compute_token_us = 10};
  const PlanLimits full{.free_swap_blocks = 1, .swap_block_us = 1, .compute_token_us = 10};
  const StepPlan swapped = PlanPreemption(cheap, 2, true);
  EXPECT_THAT(swapped.preempt, ElementsAre(1));
  EXPECT_THAT(swapped.swap, ElementsAre(1));
  EXPECT_THAT(PlanPreemption(dear, 2, true).swap, IsEmpty());
  EXPECT_THAT(PlanPreemption(full, 2, true).swap, IsEmpty());
  EXPECT_THAT(PlanPreemption(cheap, 2, false).swap, IsEmpty());
  // One of the blocks is somebody else's, too: only the other would have to be computed again.
  EXPECT_THAT(PlanPreemption(cheap, 1, true).swap, IsEmpty());
  EXPECT_THAT(PlanPreemption(dear, 2, true).preempt, ElementsAre(1));
}

}  // namespace
}  // namespace lift
