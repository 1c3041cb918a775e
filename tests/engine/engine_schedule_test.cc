// Random lives: many requests, cancellations, deadlines and preemptions; what must hold whatever
// happens.
#include <gtest/gtest.h>

#include <thread>

#include "tests/engine/engine_fixture.h"

namespace lift {
namespace {

using namespace std::chrono_literals;

// Sum of everything charged must be whole multiples of the resident bytes and agree with what
// requests were told.
void ExpectConserved(const RecordingObserver& observer, uint64_t resident) {
  ByteMicros charged = 0;
  for (const auto& [tenant, sum] : observer.charged) charged += sum;
  ByteMicros intervals = 0;
  for (const ByteMicros sum : observer.intervals) {
    EXPECT_TRUE(sum % resident == 0);
    intervals += sum;
  }
  EXPECT_TRUE(charged == intervals);
  for (const auto& [tenant, sum] : observer.charged) {
    if (tenant == kIdleTenant || tenant == kOverheadTenant) continue;
    const auto it = observer.used.find(tenant);
    ASSERT_NE(it, observer.used.end());
    EXPECT_TRUE(it->second == sum) << tenant;
  }
}

struct Life {
  EngineRequest request;
  std::shared_ptr<RecordingListener> listener = std::make_shared<RecordingListener>();
  bool cancelled = false;
};

void ExpectSensibleEnd(const FakeModel::Options& options, Life& life) {
  const FinishedEvent end = life.listener->Wait();
  const std::vector<int32_t> ids = life.listener->ids();
  EXPECT_EQ(end.usage.generated_tokens, static_cast<int64_t>(ids.size()));
  EXPECT_EQ(end.reason == FinishReason::kCancelled, life.cancelled);
  switch (end.reason) {
    case FinishReason::kLength:
    case FinishReason::kStop:
      return ExpectOfflineTokens(options, life.request, *life.listener);
    case FinishReason::kCancelled:
    case FinishReason::kDeadline: {
      if (!life.listener->started()) return;
      // What was delivered is a prefix of what would have been.
      const auto all =
          OfflineTokens(options, life.request.prompt, life.listener->started()->variant,
                        life.request.sampling, life.request.stopping.max_new_tokens);
      ASSERT_LE(ids.size(), all.size());
      EXPECT_TRUE(std::equal(ids.begin(), ids.end(), all.begin()));
      return;
    }
    default:
      ADD_FAILURE() << "ended with " << FinishReasonName(end.reason);
  }
}

TEST(EngineSchedules, NoLeakNoStarvationOneEndExactCharges) {
  std::mt19937_64 rng(77);
  for (int trial = 0; trial < 250; ++trial) {
    FakeModel::Options options{.block_tokens = 1 + static_cast<int64_t>(rng() % 5),
                               .max_context = 40};
    options.num_blocks =
        (40 + options.block_tokens - 1) / options.block_tokens + static_cast<int64_t>(rng() % 12);
    options.eos_logit = rng() % 2 == 0 ? 3.6F : -10;
    options.full = rng() % 2 == 0;
    FakeModel model(options);
    RecordingObserver observer;
    EngineOptions engine_options{.max_batch = 1 + static_cast<int64_t>(rng() % 6),
                                 .prefill_chunk_tokens = 1 + static_cast<int64_t>(rng() % 24),
                                 .observer = &observer};
    std::vector<Life> lives(8 + rng() % 8);
    {
      Engine engine(model, ByteTokenizer(), engine_options);
      for (size_t i = 0; i < lives.size(); ++i) {
        Life& life = lives[i];
        life.request = RandomRequest(rng, 18, 22);
        life.request.request_id = absl::StrCat("r", i);
        if (!options.full && life.request.precision.variant == "full")
          life.request.precision.variant = "q6.0";
        if (rng() % 6 == 0)
          life.request.deadline = EngineClock::now() + std::chrono::microseconds(50 + rng() % 500);
        const auto id = engine.Submit(life.request, life.listener);
        if (!id.ok()) {
          ASSERT_EQ(id.status().code(), absl::StatusCode::kDeadlineExceeded);
          life.listener = nullptr;
          continue;
        }
        if (rng() % 5 == 0) {
          const size_t other = rng() % (i + 1);
          if (engine.Cancel(absl::StrCat("r", other))) lives[other].cancelled = true;
        }
        if (rng() % 8 == 0) std::this_thread::sleep_for(std::chrono::microseconds(rng() % 300));
      }
      for (Life& life : lives) {
        if (life.listener != nullptr) ExpectSensibleEnd(options, life);
      }
      ASSERT_TRUE(engine.Drain(10s));
      ExpectAllFree(engine);
    }
    EXPECT_EQ(observer.admitted, observer.finished);
    EXPECT_EQ(observer.first_tokens + observer.later_tokens, observer.generated);
    const uint64_t weights = 1000 + 60013 + (options.full ? 160000 : 0);
    ExpectConserved(observer, weights + static_cast<uint64_t>(512 * options.num_blocks));
    if (HasFailure()) return;
  }
}

TEST(EngineSchedules, ManyThreadsSubmitAndCancel) {
  const FakeModel::Options options{.block_tokens = 4, .num_blocks = 24, .max_context = 64};
  FakeModel model(options);
  RecordingObserver observer;
  std::atomic<int> served{0}, refused{0};
  {
    Engine engine(
        model, ByteTokenizer(),
        {.max_batch = 6, .max_waiting = 12, .prefill_chunk_tokens = 16, .observer = &observer});
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        std::mt19937_64 rng(t);
        for (int i = 0; i < 60; ++i) {
          Life life;
          life.request = RandomRequest(rng, 20, 20);
          const auto id = engine.Submit(life.request, life.listener);
          if (!id.ok()) {
            EXPECT_EQ(id.status().code(), absl::StatusCode::kUnavailable);
            ++refused;
            continue;
          }
          if (rng() % 3 == 0) life.cancelled = engine.Cancel(*id);
          (void)engine.load();
          ExpectSensibleEnd(options, life);
          ++served;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_TRUE(engine.Drain(10s));
    ExpectAllFree(engine);
  }
  EXPECT_EQ(served + refused, 240);
  EXPECT_EQ(observer.admitted, served);
  EXPECT_EQ(observer.finished, served);
  EXPECT_EQ(observer.rejected, refused);
  ExpectConserved(observer, 1000 + 60013 + 160000 + 512 * 24);
}

TEST(EngineSchedules, IdleTimeIsChargedToNobodyInParticular) {
  FakeModel model({});
  RecordingObserver observer;
  {
    Engine engine(model, ByteTokenizer(), {.observer = &observer});
    std::this_thread::sleep_for(20ms);
  }
  ASSERT_TRUE(observer.charged.contains(kIdleTenant));
  EXPECT_TRUE(observer.charged[kIdleTenant] >= ByteMicros{221013} * 20000);
  ExpectConserved(observer, 221013 + 512 * 64);
}

}  // namespace
}  // namespace lift
