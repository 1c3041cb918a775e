// Variants that leave and come back while requests live.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <thread>

#include "tests/engine/engine_fixture.h"

namespace lift {
namespace {

using namespace std::chrono_literals;

absl::StatusOr<ResidencyChange> Set(Engine& engine, int count) {
  std::promise<absl::StatusOr<ResidencyChange>> promise;
  engine.SetResidentVariants(
      count, [&](absl::StatusOr<ResidencyChange> change) { promise.set_value(std::move(change)); });
  return promise.get_future().get();
}

class ChargeCounter : public EngineObserver {
 public:
  void OnCharges(std::span<const Charge> charges, unsigned __int128) override {
    for (const Charge& charge : charges) idle_ += charge.tenant == kIdleTenant ? 1 : 0;
  }
  int idle() const { return idle_; }

 private:
  std::atomic<int> idle_{0};
};

// A ledger's checkpoint can be no younger than the last charge.
TEST(Residency, AnIdleEngineChargesAsOftenAsItIsToldTo) {
  FakeModel model({});
  ChargeCounter counter;
  Engine engine(model, ByteTokenizer(), {.idle_charge = 2ms, .observer = &counter});
  const auto deadline = std::chrono::steady_clock::now() + 60s;  // 60 charges, were it told nothing
  while (counter.idle() < 200 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(1ms);
  }
  EXPECT_GE(counter.idle(), 200);
}

TEST(Residency, StreamsGoOnAtWhatIsLeftAndSaySo) {
  FakeModel model({.delay = 500us});
  RecordingObserver observer;
  {
    Engine engine(model, ByteTokenizer(), {.observer = &observer});
    EngineRequest request = MakeRequest({1, 2, 3, 4}, 90);
    request.precision.min_lambda = 0.39;
    request.prompt_text =
        "Prove that the square root of 2 is irrational, step by step, and compare two methods.";
    auto listener = std::make_shared<RecordingListener>();
    ASSERT_TRUE(engine.Submit(request, listener).ok());
    ASSERT_TRUE(listener->WaitForTokens(5));
    const int before = listener->started()->variant;
    ASSERT_GT(before, 1);
    const auto change = Set(engine, 2);
    ASSERT_TRUE(change.ok()) << change.status();
    EXPECT_EQ(change->before, 5);
    EXPECT_EQ(change->after, 2);
    EXPECT_EQ(change->moved, 1);
    EXPECT_EQ(change->resident_bytes, 1000u + 30011u);
    EXPECT_EQ(engine.variant_views().size(), 2u);
    const FinishedEvent end = listener->Wait();
    EXPECT_EQ(end.reason, FinishReason::kLength);
    ASSERT_EQ(end.spans.size(), 2u);
    EXPECT_EQ(end.spans[0].variant, before);
    EXPECT_EQ(end.spans[1].variant, 1);
    EXPECT_EQ(end.spans[1].reason, router::Reason::kMemory);
    EXPECT_EQ(end.spans[0].tokens + end.spans[1].tokens, 90);
  }
  // Each interval summed to what was resident then (RecordingObserver checks it).
  EXPECT_FALSE(observer.intervals.empty());
}

TEST(Residency, ARefusedChangeChangesNothing) {
  FakeModel model({.delay = 500us});
  Engine engine(model, ByteTokenizer(), {});
  auto pinned = std::make_shared<RecordingListener>(), floored = pinned;
  ASSERT_TRUE(engine.Submit(MakeRequest({1, 2}, 60, "q6.0"), pinned).ok());
  ASSERT_TRUE(pinned->WaitForTokens(1));
  const auto refused = Set(engine, 3);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.status().message()), testing::StartsWith("PRECISION_IN_USE: "));
  EXPECT_EQ(engine.resident_variants(), 5);
  EXPECT_TRUE(Set(engine, 4).ok());  // only the source goes
  EXPECT_EQ(pinned->Wait().spans.size(), 1u);
  EXPECT_EQ(Set(engine, 0).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Set(engine, 6).status().code(), absl::StatusCode::kInvalidArgument);

  EngineRequest request = MakeRequest({1, 2}, 60);
  request.precision.min_lambda = 0.6;
  floored = std::make_shared<RecordingListener>();
  ASSERT_TRUE(engine.Submit(request, floored).ok());
  ASSERT_TRUE(floored->WaitForTokens(1));
  EXPECT_EQ(Set(engine, 3).status().code(), absl::StatusCode::kFailedPrecondition);
  floored->Wait();
  ASSERT_TRUE(Set(engine, 3).ok());
  EXPECT_EQ(engine.Submit(request, floored).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(engine.Submit(MakeRequest({1}, 2, "q6.0"), floored).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(Residency, BackAgainServesTheOfflineTokens) {
  const FakeModel::Options options;
  FakeModel model(options);
  Engine engine(model, ByteTokenizer(), {});
  ASSERT_TRUE(Set(engine, 1).ok());
  ASSERT_TRUE(Set(engine, 5).ok());
  const EngineRequest request = MakeRequest({9, 8, 7}, 12, "q3.0");
  auto listener = std::make_shared<RecordingListener>();
  ASSERT_TRUE(engine.Submit(request, listener).ok());
  listener->Wait();
  ExpectOfflineTokens(options, request, *listener);
}

// Under random load and random changes nothing hangs, every request ends well, a prompt is never
// read at two precisions and nothing runs at a variant that is gone.
TEST(Residency, RandomChangesUnderLoad) {
  FakeModel model({.num_blocks = 24, .full = false});
  RecordingObserver observer;
  {
    Engine engine(
        model, ByteTokenizer(),
        {.max_batch = 6, .max_waiting = 4000, .prefill_chunk_tokens = 4, .observer = &observer});
    model.on_step = [&](std::span<const SequenceChunk> chunks) {
      for (const SequenceChunk& chunk : chunks)
        EXPECT_LT(chunk.variant, engine.resident_variants());
    };
    std::mt19937_64 rng(5);
    std::vector<std::shared_ptr<RecordingListener>> listeners;
    for (int i = 0; i < 400; ++i) {
      EngineRequest request = RandomRequest(rng, 20, 12);
      request.precision = {};
      if (rng() % 3 == 0) request.precision.min_lambda = 0.3;
      listeners.push_back(std::make_shared<RecordingListener>());
      const auto submitted = engine.Submit(request, listeners.back());
      if (!submitted.ok()) listeners.pop_back();
      if (rng() % 4 == 0) {
        const auto change = Set(engine, 1 + static_cast<int>(rng() % 4));
        EXPECT_TRUE(change.ok() || change.status().code() == absl::StatusCode::kFailedPrecondition);
      }
    }
    for (const auto& listener : listeners) {
      const FinishedEvent end = listener->Wait();
      int64_t tokens = 0;
      for (const PrecisionSpan& span : end.spans) tokens += span.tokens;
      EXPECT_EQ(tokens, end.usage.generated_tokens);
    }
    ExpectAllFree(engine);
  }
  for (const auto& [tenant, used] : observer.used) EXPECT_TRUE(observer.charged[tenant] == used);
}

}  // namespace
}  // namespace lift
