// Several answers to one prompt, and the log-probabilities of the prompt itself.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/engine/engine_fixture.h"

namespace lift {
namespace {

using namespace std::chrono_literals;

std::vector<int32_t> IdsOf(RecordingListener& listener, int choice) {
  std::vector<int32_t> ids;
  for (const TokenEvent& token : listener.tokens()) {
    if (token.choice == choice) ids.push_back(token.id);
  }
  return ids;
}

EngineRequest ManyAnswers(int choices) {
  EngineRequest request = MakeRequest({}, 12, "q2.0");
  for (int32_t i = 0; i < 30; ++i) request.prompt.push_back(i);
  request.choices = choices;
  request.sampling.temperature = 1;
  request.sampling.seed = 11;
  return request;
}

TEST(Choices, EachIsTheAnswerOfItsSeedAndThePromptIsReadOnce) {
  const FakeModel::Options options;
  for (const bool bypass : {false, true}) {
    FakeModel model(options);
    RecordingObserver observer;
    std::atomic<int64_t> read{0};
    model.on_step = [&](std::span<const SequenceChunk> chunks) {
      for (const auto& chunk : chunks) {
        if (chunk.position < 30) read += static_cast<int64_t>(chunk.tokens.size());
      }
    };
    {
      Engine engine(model, ByteTokenizer(), {.prefill_chunk_tokens = 8, .observer = &observer});
      EngineRequest request = ManyAnswers(5);
      request.cache.bypass = bypass;
      auto listener = std::make_shared<RecordingListener>();
      ASSERT_TRUE(engine.Submit(request, listener).ok());
      const FinishedEvent end = listener->Wait();
      ASSERT_EQ(end.choices.size(), 5u);
      EXPECT_EQ(end.usage.prompt_tokens, 30);
      EXPECT_EQ(end.usage.cached_tokens, 0);
      EXPECT_EQ(end.usage.generated_tokens, 60);
      for (int c = 0; c < 5; ++c) {
        SamplingParams alone = request.sampling;
        alone.seed = ChoiceSeed(alone.seed, c);
        EXPECT_EQ(IdsOf(*listener, c),
                  OfflineTokens(options, request.prompt, listener->started()->variant, alone, 12));
        EXPECT_EQ(end.choices[c].seed_used, alone.seed);
        EXPECT_EQ(end.choices[c].generated_tokens, 12);
      }
      EXPECT_EQ(read, 30 + 4 * 2);  // the others read what does not fill a block
      EXPECT_TRUE(engine.Drain(10s));
      ExpectAllFree(engine);
    }
    EXPECT_EQ(observer.admitted, 1);
    EXPECT_EQ(observer.finished, 1);
    EXPECT_EQ(observer.decisions, 1);
  }
}

TEST(Choices, CancellationAndAFullPoolEndOrServeAll) {
  // Room for the prompt and two answers: the others wait or are preempted.
  const FakeModel::Options options{.num_blocks = 16, .delay = 100us};
  FakeModel model(options);
  Engine engine(model, ByteTokenizer(), {});
  auto served = std::make_shared<RecordingListener>();
  const EngineRequest request = ManyAnswers(6);
  ASSERT_TRUE(engine.Submit(request, served).ok());
  served->Wait();
  for (int c = 0; c < 6; ++c) {
    SamplingParams alone = request.sampling;
    alone.seed = ChoiceSeed(alone.seed, c);
    EXPECT_EQ(IdsOf(*served, c), OfflineTokens(options, request.prompt, 0, alone, 12));
  }
  EngineRequest endless = ManyAnswers(4);
  endless.request_id = "x";
  endless.stopping.max_new_tokens = 34;
  auto cancelled = std::make_shared<RecordingListener>();
  ASSERT_TRUE(engine.Submit(endless, cancelled).ok());
  ASSERT_TRUE(cancelled->WaitForTokens(3));
  EXPECT_TRUE(engine.Cancel("x"));
  const FinishedEvent end = cancelled->Wait();
  EXPECT_EQ(end.reason, FinishReason::kCancelled);
  for (const ChoiceEnd& choice : end.choices) EXPECT_EQ(choice.reason, FinishReason::kCancelled);
  EXPECT_TRUE(engine.Drain(10s));
  ExpectAllFree(engine);
}

TEST(PromptLogprobs, AreThoseOfEachPositionWhateverIsCached) {
  FakeModel model({});
  Engine engine(model, ByteTokenizer(), {.prefill_chunk_tokens = 7});
  EngineRequest request = ManyAnswers(1);
  const auto run = [&] {
    auto listener = std::make_shared<RecordingListener>();
    EXPECT_TRUE(engine.Submit(request, listener).ok());
    listener->Wait();
    return *listener->started();
  };
  EXPECT_TRUE(run().prompt_logprobs.empty());
  request.prompt_logprobs = 3;
  const StartedEvent started = run();
  EXPECT_EQ(started.cached_tokens, 0);
  ASSERT_EQ(started.prompt_logprobs.size(), request.prompt.size() - 1);
  for (size_t i = 1; i < request.prompt.size(); ++i) {
    const SampledToken& token = started.prompt_logprobs[i - 1];
    EXPECT_EQ(token.id, request.prompt[i]);
    ASSERT_EQ(token.top.size(), 3u);
    // The best next token of a prompt that ends here is what a request of that prompt answers.
    EngineRequest shorter = MakeRequest({request.prompt.begin(), request.prompt.begin() + i}, 1);
    auto listener = std::make_shared<RecordingListener>();
    ASSERT_TRUE(engine.Submit(shorter, listener).ok());
    listener->Wait();
    EXPECT_EQ(token.top[0].id, listener->ids()[0]);
    EXPECT_LE(token.logprob, token.top[0].logprob);
  }
}

}  // namespace
}  // namespace lift
