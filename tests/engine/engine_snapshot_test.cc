// Prefixes of models with recurrent state: what is kept of it, found again and given back.
#include <gtest/gtest.h>

#include "tests/engine/engine_fixture.h"

namespace lift {
namespace {

using namespace std::chrono_literals;

constexpr int64_t kEvery = 8;

// Of a recurrent model with so many states.
struct SnapshotHarness : Harness {
  explicit SnapshotHarness(int64_t blocks, EngineOptions options = {.snapshot_tokens = kEvery})
      : Harness(options, {.num_blocks = blocks, .recurrent = true}) {}
  int64_t Cached(const EngineRequest& request) { return Run(request)->started()->cached_tokens; }
};

TEST(Snapshots, ASecondPromptReadsOnlyItsEnd) {
  SnapshotHarness h(16);
  EngineRequest request = MakeRequest(Prompt(42, 7), 6, "q3.0");
  EXPECT_EQ(h.Cached(request), 0);
  EXPECT_EQ(h.model.copies, 5);
  int64_t read = 0;
  h.model.on_step = [&](std::span<const SequenceChunk> chunks) {
    for (const auto& chunk : chunks) read += static_cast<int64_t>(chunk.tokens.size());
  };
  auto again = h.Run(request);
  EXPECT_EQ(again->started()->cached_tokens, 40);
  EXPECT_EQ(again->Wait().usage.cached_tokens, 40);
  EXPECT_EQ(read, 2 + 5);        // the rest of the prompt, and all answer tokens but the last
  EXPECT_EQ(h.model.copies, 6);  // taken over; nothing new to keep
  // The same start with another end, and a longer one: as far as they are equal.
  EXPECT_EQ(h.Cached(MakeRequest(Prompt(30, 9), 6, "full")), 24);
  EXPECT_EQ(h.Cached(MakeRequest(Prompt(60, 9), 6, "q2.0")), 40);
  EXPECT_TRUE(h.engine.Drain(10s));
  ExpectAllFree(h.engine);
  EXPECT_EQ(h.engine.load().blocks_cached, 7);  // 5, then after 48 and 56 tokens
}

TEST(Snapshots, TenantsSaltsAndBypassKeepApart) {
  SnapshotHarness h(64);
  EngineRequest request = MakeRequest(Prompt(42, 7), 2, "q3.0");
  h.Run(request);
  request.tenant = "other";
  EXPECT_EQ(h.Cached(request), 0);
  EXPECT_EQ(h.Cached(request), 40);
  request.cache.salt = "s";
  EXPECT_EQ(h.Cached(request), 0);
  request.cache.bypass = true;
  EXPECT_EQ(h.Cached(request), 0);
  SnapshotHarness open(64, {.share_prefixes = true, .snapshot_tokens = kEvery});
  request = MakeRequest(Prompt(42, 7), 2, "q3.0");
  open.Run(request);
  request.tenant = "other";
  EXPECT_EQ(open.Cached(request), 40);
  SnapshotHarness off(64, {.prefix_cache = false, .snapshot_tokens = kEvery});
  off.Run(request);
  EXPECT_EQ(off.Cached(request), 0);
  EXPECT_EQ(off.model.copies, 0);
  EXPECT_EQ(off.engine.load().blocks_cached, 0);
}

TEST(Snapshots, AnswersToOnePromptShareIt) {
  SnapshotHarness h(8);
  EngineRequest request = MakeRequest(Prompt(20, 7), 5, "q3.0");
  request.choices = 3;
  int64_t read = 0;
  h.model.on_step = [&](std::span<const SequenceChunk> chunks) {
    for (const auto& chunk : chunks) read += static_cast<int64_t>(chunk.tokens.size());
  };
  auto listener = std::make_shared<RecordingListener>();
  ASSERT_TRUE(h.engine.Submit(request, listener).ok());
  listener->Wait();
  EXPECT_EQ(read, 20 + 2 * 4 + 3 * 4);  // the prompt, twice its end after 16, answers
  EXPECT_EQ(listener->Wait().usage.prompt_tokens, 20);
  EXPECT_EQ(listener->ids().size(), 15U);
}

// A prefix that is asked for again and again outlives those that came once.
TEST(Snapshots, TheLeastRecentlyUsedLeavesFirst) {
  SnapshotHarness h(4);  // one sequence and three snapshots
  const EngineRequest often = MakeRequest(Prompt(9, 1), 2, "q3.0");
  h.Run(often);
  for (int32_t i = 0; i < 6; ++i) {
    EngineRequest once = MakeRequest(Prompt(18, 2), 2, "q3.0");
    once.prompt[0] = 100 + i;
    h.Run(once);
    EXPECT_EQ(h.Cached(often), 8) << i;
  }
  EngineRequest once = MakeRequest(Prompt(18, 2), 2, "q3.0");
  once.prompt[0] = 100;
  EXPECT_EQ(h.Cached(once), 0);
}

// Whatever the pool holds, answers are the same, and memory is charged to the last byte.
TEST(Snapshots, TightPoolsForgetAndStillServe) {
  for (const int64_t blocks : {1, 2, 3, 5, 9}) {
    RecordingObserver observer;
    int64_t cached = 0;
    {
      SnapshotHarness h(blocks, {.max_batch = 4,
                                 .prefill_chunk_tokens = 13,
                                 .snapshot_tokens = kEvery,
                                 .patience = 1ms,
                                 .observer = &observer});
      std::mt19937_64 rng(static_cast<uint64_t>(blocks));
      std::vector<EngineRequest> requests;
      std::vector<std::shared_ptr<RecordingListener>> listeners;
      for (int i = 0; i < 60; ++i) {
        const auto length = 10 + static_cast<int64_t>(rng() % 50);
        requests.push_back(MakeRequest(Prompt(length, 3), 20, i % 2 == 0 ? "q4.0" : ""));
        for (size_t k = rng() % 12; k < requests.back().prompt.size(); k += 11)
          requests.back().prompt[k] ^= static_cast<int32_t>(rng() % 2);
        requests.back().priority = static_cast<int>(rng() % 3);
        listeners.push_back(std::make_shared<RecordingListener>());
        ASSERT_TRUE(h.engine.Submit(requests.back(), listeners.back()).ok());
        if (i % 5 == 0) listeners.back()->Wait();
      }
      for (size_t i = 0; i < requests.size(); ++i) {
        listeners[i]->Wait();
        ExpectOfflineTokens(h.fake, requests[i], *listeners[i]);
        cached += listeners[i]->started()->cached_tokens;
      }
      EXPECT_TRUE(h.engine.Drain(10s));
      ExpectAllFree(h.engine);
      EXPECT_LE(h.engine.load().blocks_cached, blocks);
    }
    EXPECT_EQ(observer.finished, 60);  // RecordingObserver checks that charges add up
    EXPECT_EQ(cached > 0, blocks > 1) << blocks;
  }
}

}  // namespace
}  // namespace lift
