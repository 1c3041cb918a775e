// Guessing ahead changes how long an answer takes, never what it says.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "router/predictor.h"
#include "server/engine/speculation.h"
#include "tests/engine/engine_fixture.h"

namespace lift {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::IsEmpty;

TEST(LookUp, WhatFollowedTheSameEndLastTime) {
  const auto look = [](std::vector<int32_t> tokens, int64_t most) {
    return LookUpDraft(tokens, most);
  };
  EXPECT_THAT(look({1, 2, 3, 9, 1, 2, 7, 1, 2}, 3), ElementsAre(7, 1, 2));
  EXPECT_THAT(look({5, 1, 2, 3, 9, 1, 2, 7, 5, 1, 2}, 2), ElementsAre(3, 9));  // the longer end
  EXPECT_THAT(look({4, 4, 4}, 4), ElementsAre(4));
  EXPECT_THAT(look({1, 2, 3, 4}, 4), IsEmpty());
  EXPECT_THAT(look({1}, 4), IsEmpty());
  EXPECT_THAT(look({1, 2, 1, 2}, 0), IsEmpty());
}

TEST(DraftControlTest, GrowsWhileItPaysAndRestsWhileItDoesNot) {
  DraftControl pays(4);
  EXPECT_EQ(pays.length(), 1);
  pays.OnDrafted(1, 1, 2, 1.0);
  EXPECT_EQ(pays.length(), 0);  // one plain step to compare with
  pays.OnPlain(1, 1.0);
  for (int i = 0; i < 20; ++i) pays.OnDrafted(4, 4, 5, 1.5);
  EXPECT_EQ(pays.length(), 4);
  EXPECT_GT(pays.acceptance(), 0.99);
  DraftControl costs(4);
  costs.OnPlain(1, 1.0);
  int drafted = 0;
  for (int i = 0; i < 1000; ++i) {
    if (costs.length() > 0) {
      ++drafted;
      costs.OnDrafted(costs.length(), 0, 1, 1.5);
    } else {
      costs.OnPlain(1, 1.0);
    }
  }
  EXPECT_LT(drafted, 150);
  EXPECT_EQ(DraftControl(0).length(), 0);
}

// Requests whose answers repeat (so guesses are right) and that do not (so they are wrong), greedy
// and sampled, in a pool that is too small for all.
TEST(Speculation, AnswersAreTheSame) {
  std::mt19937_64 rng(8);
  for (int trial = 0; trial < 30; ++trial) {
    const FakeModel::Options options{.block_tokens = 1 + static_cast<int64_t>(rng() % 5),
                                     .num_blocks = 70,
                                     .max_context = 64,
                                     .eos_logit = rng() % 2 == 0 ? 3.6F : -10};
    FakeModel model(options);
    RecordingObserver observer;
    SpeculationStats stats;
    {
      Engine engine(model, ByteTokenizer(),
                    {.max_batch = 6, .router = {.most_drafts = 4}, .observer = &observer});
      std::vector<EngineRequest> requests;
      std::vector<std::shared_ptr<RecordingListener>> listeners;
      for (int i = 0; i < 12; ++i) {
        EngineRequest request = RandomRequest(rng, 18, 40);
        if (i % 2 == 0) request.sampling.logit_bias = {{7, 7.5F}, {9, 7.0F}};
        requests.push_back(request);
        listeners.push_back(std::make_shared<RecordingListener>());
        ASSERT_TRUE(engine.Submit(request, listeners.back()).ok());
      }
      for (size_t i = 0; i < requests.size(); ++i) {
        listeners[i]->Wait();
        ExpectOfflineTokens(options, requests[i], *listeners[i]);
      }
      stats = engine.speculation();
      EXPECT_TRUE(engine.Drain(10s));
      ExpectAllFree(engine);
    }
    EXPECT_GT(stats.looked_up + stats.drafted, 0);
    EXPECT_LE(stats.looked_up_accepted, stats.looked_up);
    EXPECT_LE(stats.drafted_accepted, stats.drafted);
    EXPECT_EQ(observer.first_tokens + observer.later_tokens, observer.generated);
    if (HasFailure()) return;
  }
}

TEST(Speculation, RightGuessesSaveSteps) {
  FakeModel model({.delay = 3ms});  // far above the cost of a guess, also under a sanitizer
  Engine engine(model, ByteTokenizer(), {.router = {.most_drafts = 4}});
  EngineRequest request = MakeRequest({1, 2, 3}, 100, "full");
  request.sampling.logit_bias = {{7, 100.0F}};
  auto listener = std::make_shared<RecordingListener>();
  ASSERT_TRUE(engine.Submit(request, listener).ok());
  listener->Wait();
  EXPECT_EQ(listener->ids(), std::vector<int32_t>(100, 7));
  EXPECT_LT(model.steps, 70);
  EXPECT_GT(engine.speculation().looked_up_accepted, 40);
}

// A predictor that knows how often guesses are right says who guesses, and how many.
TEST(Speculation, ThePlannedVariantGuesses) {
  router::Predictor::Parts parts;
  parts.curve = {{2, std::log(0.8), 1}, {3, std::log(0.1), 1}, {4, std::log(0.09), 1}};
  parts.finest_bits = 6;
  parts.quantiles = {-1, 0, 1};
  parts.version = "trained-x";
  parts.wrong_scale = 1;
  EngineOptions options;
  options.router = {.policy = {}, .predictor = *router::Predictor::Create(parts), .most_drafts = 2};
  const FakeModel::Options fake{.max_context = 128, .full = false};
  FakeModel model(fake);
  std::map<std::pair<int, size_t>, int> chunks;  // variant, tokens
  model.on_step = [&](std::span<const SequenceChunk> step) {
    for (const SequenceChunk& chunk : step) ++chunks[{chunk.variant, chunk.tokens.size()}];
  };
  {
    Engine engine(model, ByteTokenizer(), options);
    const EngineRequest request = MakeRequest({5, 6}, 60, "q6.0");
    auto listener = std::make_shared<RecordingListener>();
    ASSERT_TRUE(engine.Submit(request, listener).ok());
    listener->Wait();
    ExpectOfflineTokens(fake, request, *listener);
    EXPECT_GT(engine.speculation().drafted, 0);
  }
  const int guesses = chunks[{1, 1}], verified = chunks[{3, 3}];  // by q3.0, at q6.0
  EXPECT_GT(verified, 0);
  EXPECT_GE(guesses, 2 * verified);
  EXPECT_EQ((chunks[{0, 1}]), 0);
  EXPECT_EQ((chunks[{2, 1}]), 0);
}

}  // namespace
}  // namespace lift
