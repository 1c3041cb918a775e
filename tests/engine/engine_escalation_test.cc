// Precision that rises inside an answer: the same tokens as offline, reported, never of the pinned.
#include <gtest/gtest.h>

#include "tests/engine/engine_fixture.h"

namespace lift {
namespace {

using namespace std::chrono_literals;

// The fake model's distributions all have some 4.47 nats (4.3 to 4.6); averages reach this now and
// then.
constexpr double kSome = 4.49;

void ExpectOffline(const FakeModel::Options& model, const EngineRequest& request, double entropy,
                   RecordingListener& listener) {
  ASSERT_TRUE(listener.started().has_value());
  const bool pinned = request.precision.mode == router::Mode::kPinned;
  EXPECT_EQ(listener.ids(),
            OfflineTokens(model, request.prompt, listener.started()->variant, request.sampling,
                          request.stopping.max_new_tokens, pinned ? 0 : entropy));
}

// Spans tell every token's variant, in ascending order, and why.
int CheckSpans(const FinishedEvent& end, RecordingListener& listener) {
  std::vector<int> told, seen;
  for (const PrecisionSpan& span : end.spans) {
    if (!told.empty()) {
      EXPECT_EQ(span.variant, told.back() + 1);
      EXPECT_EQ(span.reason, router::Reason::kEscalated);
    }
    told.insert(told.end(), static_cast<size_t>(span.tokens), span.variant);
  }
  for (const TokenEvent& token : listener.tokens()) seen.push_back(token.variant);
  EXPECT_EQ(told, seen);
  return static_cast<int>(end.spans.size()) - 1;
}

TEST(EngineEscalation, ServedEqualsOfflineUnderLoadSpeculationAndPreemption) {
  const FakeModel::Options options{.block_tokens = 4, .num_blocks = 24, .max_context = 80};
  int rises = 0, stays = 0;
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    FakeModel model(options);
    RecordingObserver observer;
    std::mt19937_64 rng(seed);
    EngineOptions engine_options;
    engine_options.router.most_drafts = seed % 2 == 0 ? 4 : 0;
    engine_options.escalation = kSome;
    engine_options.patience = 1ms;
    engine_options.swap_bytes = seed % 3 == 0 ? 1 << 16 : 0;
    engine_options.preemption = EngineOptions::Preemption::kSwap;
    engine_options.observer = &observer;
    std::vector<EngineRequest> requests;
    std::vector<std::shared_ptr<RecordingListener>> listeners;
    {
      Engine engine(model, ByteTokenizer(), engine_options);
      for (int i = 0; i < 8; ++i) {
        requests.push_back(RandomRequest(rng, 20, 50));
        requests.back().sampling.repetition_penalty = 1;
        if (i < 4) requests.back().precision = {};
        listeners.push_back(std::make_shared<RecordingListener>());
        ASSERT_TRUE(engine.Submit(requests.back(), listeners.back()).ok());
      }
      for (size_t i = 0; i < requests.size(); ++i) {
        const FinishedEvent end = listeners[i]->Wait();
        ExpectOffline(options, requests[i], kSome, *listeners[i]);
        const int rose = CheckSpans(end, *listeners[i]);
        if (requests[i].precision.mode == router::Mode::kPinned) {
          EXPECT_EQ(rose, 0);
        }
        rises += rose;
        stays += rose == 0 ? 1 : 0;
      }
      EXPECT_TRUE(engine.Drain(10s));
      ExpectAllFree(engine);
    }
    for (const auto& [tenant, used] : observer.used) EXPECT_TRUE(observer.charged[tenant] == used);
  }
  EXPECT_GT(rises, 10);
  EXPECT_GT(stays, 10);
}

TEST(EngineEscalation, OffUnlessAskedFor) {
  const FakeModel::Options options;
  FakeModel model(options);
  Engine engine(model, ByteTokenizer(), {});
  auto listener = std::make_shared<RecordingListener>();
  const EngineRequest request = MakeRequest({1, 2, 3}, 40);
  ASSERT_TRUE(engine.Submit(request, listener).ok());
  EXPECT_EQ(listener->Wait().spans.size(), 1u);
  ExpectOfflineTokens(options, request, *listener);
}

}  // namespace
}  // namespace lift
