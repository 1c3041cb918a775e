// State of preempted sequences in the swap space: the same tokens, the same bill, nothing left
// over.
#include <gtest/gtest.h>

#include <future>

#include "tests/engine/engine_fixture.h"

namespace lift {
namespace {

using namespace std::chrono_literals;
using Preemption = EngineOptions::Preemption;

constexpr FakeModel::Options kSmall{.block_tokens = 4, .num_blocks = 10, .max_context = 40};

// Requests that together want several times the pool. Returns what became of preempted ones.
PreemptionStats RunCrowd(const EngineOptions& asked, uint64_t seed) {
  FakeModel model(kSmall);
  RecordingObserver observer;
  EngineOptions options = asked;
  options.observer = &observer;
  options.prefill_chunk_tokens = 16;
  options.patience = 1ms;
  PreemptionStats stats;
  std::mt19937_64 rng(seed);
  {
    Engine engine(model, ByteTokenizer(), options);
    std::vector<EngineRequest> requests;
    std::vector<std::shared_ptr<RecordingListener>> listeners;
    for (int i = 0; i < 12; ++i) {
      requests.push_back(RandomRequest(rng, 12, 24));
      listeners.push_back(std::make_shared<RecordingListener>());
      EXPECT_TRUE(engine.Submit(requests.back(), listeners.back()).ok());
    }
    for (size_t i = 0; i < requests.size(); ++i) {
      listeners[i]->Wait();
      ExpectOfflineTokens(kSmall, requests[i], *listeners[i]);
    }
    EXPECT_TRUE(engine.Drain(10s));
    stats = engine.load().preemption;
    ExpectAllFree(engine);
  }
  EXPECT_EQ(stats.swap_blocks_used, 0);
  for (const auto& [tenant, used] : observer.used) EXPECT_TRUE(observer.charged[tenant] == used);
  const auto resident =
      static_cast<uint64_t>((10 + stats.swap_blocks_total) * 512) + 161000 + 60013;
  for (const ByteMicros sum : observer.intervals) EXPECT_TRUE(sum % resident == 0);
  return stats;
}

TEST(EngineSwap, TokensAreEqualWithSwapRecomputationAndWithoutPreemption) {
  PreemptionStats swap, again, little;
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    for (const bool cache : {false, true}) {
      const PreemptionStats a = RunCrowd(
          {.prefix_cache = cache, .swap_bytes = 1 << 16, .preemption = Preemption::kSwap}, seed);
      const PreemptionStats b = RunCrowd({.prefix_cache = cache}, seed);
      // Room for three blocks: some are swapped, some computed again.
      const PreemptionStats c = RunCrowd(
          {.prefix_cache = cache, .swap_bytes = 3 * 512 + 100, .preemption = Preemption::kSwap},
          seed);
      EXPECT_EQ(a.swap_blocks_total, 128);
      EXPECT_EQ(c.swap_blocks_total, 3);
      EXPECT_EQ(b.swapped + b.swap_blocks_total, 0);
      swap.swapped += a.swapped;
      swap.restored += a.restored;
      swap.recomputed += a.recomputed;
      again.recomputed += b.recomputed;
      little.swapped += c.swapped;
      little.recomputed += c.recomputed;
    }
  }
  EXPECT_GT(swap.swapped, 100);
  EXPECT_GT(swap.restored, 50);
  EXPECT_EQ(swap.recomputed, 0);
  EXPECT_GT(again.recomputed, 100);
  EXPECT_GT(little.swapped, 10);
  EXPECT_GT(little.recomputed, 10);
}

// One sequence decodes; one of more weight pushes it out, and ends only when `until` says so.
struct PushedOut {
  explicit PushedOut(FakeModel::Options options, RecordingObserver* observer = nullptr)
      : model(options),
        engine(model, ByteTokenizer(),
               {.max_batch = 1,
                .patience = 1ms,
                .swap_bytes = 1 << 16,
                .preemption = Preemption::kSwap,
                .observer = observer}) {
    request = MakeRequest({1, 2, 3}, 36);
    request.request_id = "first";
    request.precision.min_lambda = 0;
    EXPECT_TRUE(engine.Submit(request, first).ok());
    EXPECT_TRUE(first->WaitForTokens(1));
    EngineRequest pusher = MakeRequest({9, 9}, 120);
    pusher.priority = 5;
    pusher.request_id = "second";
    EXPECT_TRUE(engine.Submit(pusher, second).ok());
    EXPECT_TRUE(second->WaitForTokens(1));
    EXPECT_EQ(engine.load().preemption.swapped, 1);
    EXPECT_GT(engine.load().preemption.swap_blocks_used, 0);
  }
  FakeModel model;
  Engine engine;
  EngineRequest request;
  std::shared_ptr<RecordingListener> first = std::make_shared<RecordingListener>(),
                                     second = std::make_shared<RecordingListener>();
};

constexpr FakeModel::Options kSlow{
    .block_tokens = 4, .num_blocks = 40, .max_context = 160, .delay = 1ms};

TEST(EngineSwap, WhatWaitsInTheSwapSpaceIsBilled) {
  RecordingObserver observer;
  FinishedEvent end;
  {
    PushedOut pushed(kSlow, &observer);
    ASSERT_TRUE(pushed.second->WaitForTokens(60));
    EXPECT_TRUE(pushed.engine.Cancel("first"));
    end = pushed.first->Wait();
    EXPECT_EQ(pushed.engine.load().preemption.swap_blocks_used, 0);  // freed with its owner
    EXPECT_EQ(end.reason, FinishReason::kCancelled);
    // 32 tokens or more before it could be displaced, then some 60 steps in at least 8 blocks.
    EXPECT_GT(end.usage.kv_byte_us, ByteMicros{8 * 512} * 50000);
    pushed.engine.Cancel("second");
    pushed.second->Wait();
  }
  EXPECT_TRUE(observer.charged["default"] == observer.used["default"]);
}

TEST(EngineSwap, StateOfAPrecisionThatLeavesMemoryIsNotBroughtBack) {
  PushedOut pushed(kSlow);
  std::promise<absl::StatusOr<ResidencyChange>> done;
  pushed.engine.SetResidentVariants(1, [&](auto result) { done.set_value(std::move(result)); });
  ASSERT_TRUE(done.get_future().get().ok());
  EXPECT_EQ(pushed.engine.load().preemption.swap_blocks_used, 0);  // its prompt was read at "full"
  pushed.engine.Cancel("second");
  EXPECT_EQ(pushed.first->Wait().reason, FinishReason::kLength);
  EXPECT_EQ(pushed.engine.load().preemption.restored, 0);
}

TEST(EngineSwap, TheCheaperWayIsTaken) {
  // Without a step to judge by, nothing is known of computing; copying is then not the cheaper way.
  const PreemptionStats stats =
      RunCrowd({.prefix_cache = false, .swap_bytes = 1 << 16}, /*seed=*/3);
  EXPECT_GT(stats.recomputed + stats.swapped, 0);
}

}  // namespace
}  // namespace lift
