#include "server/engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>

#include "tests/engine/engine_fixture.h"

namespace lift {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::StartsWith;

TEST(Engine, OneRequestGivesTheOfflineTokens) {
  const FakeModel::Options options;
  FakeModel model(options);
  Engine engine(model, ByteTokenizer(), {.prefill_chunk_tokens = 3});
  for (const char* variant : {"q2.0", "q4.0", "full"}) {
    const EngineRequest request = MakeRequest({1, 2, 3, 4, 5, 6, 7}, 20, variant);
    auto listener = std::make_shared<RecordingListener>();
    ASSERT_TRUE(engine.Submit(request, listener).ok());
    const FinishedEvent end = listener->Wait();
    EXPECT_EQ(end.reason, FinishReason::kLength);
    EXPECT_TRUE(end.status.ok());
    EXPECT_EQ(end.usage.prompt_tokens, 7);
    EXPECT_EQ(end.usage.generated_tokens, 20);
    EXPECT_EQ(listener->started()->decision.reason, router::Reason::kPinned);
    EXPECT_EQ(engine.variant_views()[listener->started()->variant].name, variant);
    ExpectOfflineTokens(options, request, *listener);
    for (const TokenEvent& token : listener->tokens()) EXPECT_EQ(token.variant, end.variant);
  }
  EXPECT_TRUE(engine.Drain(10s));
  ExpectAllFree(engine);
}

// Seven tokens cost less as an answer's, and are computed so whatever the chunks; eight as a
// prompt's.
TEST(Engine, ShortPromptsAreComputedAsAnswers) {
  for (const int32_t tokens : {1, 7, 8, 20}) {
    FakeModel model({});
    std::vector<bool> as_prompt;
    model.on_step = [&](std::span<const SequenceChunk> chunks) {
      for (const SequenceChunk& chunk : chunks) as_prompt.push_back(chunk.prefill);
    };
    Engine engine(model, ByteTokenizer(), {.prefill_chunk_tokens = 4});
    std::vector<int32_t> prompt(static_cast<size_t>(tokens), 5);
    auto listener = std::make_shared<RecordingListener>();
    ASSERT_TRUE(engine.Submit(MakeRequest(std::move(prompt), 1, "q2.0"), listener).ok());
    listener->Wait();
    const auto chunks = static_cast<size_t>((tokens + 3) / 4);
    EXPECT_EQ(as_prompt, std::vector<bool>(chunks, tokens >= 8)) << tokens;
  }
}

TEST(Engine, EightMixedVariantsInABatchEqualAlone) {
  const FakeModel::Options options{.delay = 200us};
  FakeModel model(options);
  Engine engine(model, ByteTokenizer(), {.max_batch = 8, .prefill_chunk_tokens = 5});
  std::mt19937_64 rng(1);
  std::vector<EngineRequest> requests;
  std::vector<std::shared_ptr<RecordingListener>> listeners;
  for (int i = 0; i < 8; ++i) {
    requests.push_back(RandomRequest(rng, 20, 12));
    requests.back().stopping.max_new_tokens = 12;
    listeners.push_back(std::make_shared<RecordingListener>());
    ASSERT_TRUE(engine.Submit(requests[i], listeners[i]).ok());
  }
  for (int i = 0; i < 8; ++i) {
    listeners[i]->Wait();
    ExpectOfflineTokens(options, requests[i], *listeners[i]);
  }
}

TEST(Engine, TheRouterDecidesAutoAfterPrefill) {
  FakeModel model({});
  Engine engine(model, ByteTokenizer(), {});
  const auto decide = [&](const std::string& text, router::PrecisionRequest precision) {
    EngineRequest request = MakeRequest({65, 66}, 2);
    request.prompt_text = text;
    request.precision = std::move(precision);
    auto listener = std::make_shared<RecordingListener>();
    EXPECT_TRUE(engine.Submit(request, listener).ok());
    listener->Wait();
    return *listener->started();
  };
  const StartedEvent easy = decide("Hi!", {});
  const StartedEvent hard = decide(
      "Prove that the square root of 2 is irrational, step by step, and compare two methods.", {});
  EXPECT_LT(easy.variant, hard.variant);
  EXPECT_EQ(easy.decision.reason, router::Reason::kAuto);
  EXPECT_FALSE(easy.decision.explanation.empty());
  router::PrecisionRequest floor;
  floor.min_lambda = 0.6;
  const StartedEvent raised = decide("Hi!", floor);
  EXPECT_EQ(raised.variant, 3);
  EXPECT_EQ(raised.decision.reason, router::Reason::kFloor);
}

TEST(Engine, PreemptionInATinyPoolGivesTheSameTokens) {
  // Each sequence grows to 10 blocks; the pool has 14, so the later ones are preempted again and
  // again.
  const FakeModel::Options options{.block_tokens = 2, .num_blocks = 14, .max_context = 64};
  FakeModel::Options slow = options;
  slow.delay = 1ms;  // so that all four live at once
  FakeModel model(slow);
  std::atomic<int> recomputed{
      0};  // chunks of generated tokens longer than one: only recomputation has them
  model.on_step = [&](std::span<const SequenceChunk> chunks) {
    for (const auto& chunk : chunks) {
      if (chunk.position == 6 && chunk.tokens.size() > 1) ++recomputed;
    }
  };
  Engine engine(model, ByteTokenizer(), {.max_batch = 4, .prefill_chunk_tokens = 4});
  // An answer of one token, so that short ones are expected and more are let in than will fit.
  const auto first = std::make_shared<RecordingListener>();
  ASSERT_TRUE(engine.Submit(MakeRequest({9}, 1), first).ok());
  first->Wait();
  std::vector<EngineRequest> requests;
  std::vector<std::shared_ptr<RecordingListener>> listeners;
  for (int i = 0; i < 4; ++i) {
    EngineRequest request = MakeRequest({i, 20, 30, 40, 50, 60}, 14, i % 2 == 0 ? "q2.0" : "q4.0");
    request.sampling.temperature = i == 3 ? 1 : 0;
    request.sampling.presence_penalty = i == 2 ? 1 : 0;
    request.sampling.seed = 5;
    requests.push_back(request);
    listeners.push_back(std::make_shared<RecordingListener>());
    ASSERT_TRUE(engine.Submit(request, listeners.back()).ok());
  }
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(listeners[i]->Wait().reason, FinishReason::kLength);
    ExpectOfflineTokens(options, requests[i], *listeners[i]);
  }
  EXPECT_GT(recomputed, 0);
  EXPECT_TRUE(engine.Drain(10s));
  ExpectAllFree(engine);
}

TEST(Engine, OneCancelledOnePastItsDeadlineOneSlowReaderTheOthersFinish) {
  const FakeModel::Options options{.num_blocks = 512, .max_context = 512, .delay = 500us};
  FakeModel model(options);
  Engine engine(model, ByteTokenizer(), {.max_batch = 8});
  std::vector<EngineRequest> requests;
  std::vector<std::shared_ptr<RecordingListener>> listeners;
  for (int i = 0; i < 8; ++i) {
    requests.push_back(MakeRequest({i, i + 1, i + 2}, i < 2 ? 500 : 30, "q3.0"));
    requests[i].request_id = absl::StrCat("r", i);
    listeners.push_back(std::make_shared<RecordingListener>());
  }
  // The engine's thread must not be held up: a slow reader only reads its queue late.
  std::vector<TokenEvent> slowly_read;
  int64_t steps_at_end = 0;
  listeners[0]->on_finished = [&] { steps_at_end = model.steps; };
  for (int i = 0; i < 8; ++i) {
    if (i == 1) requests[i].deadline = EngineClock::now() + 100ms;
    ASSERT_TRUE(engine.Submit(requests[i], listeners[i]).ok());
  }
  ASSERT_TRUE(listeners[0]->WaitForTokens(3));
  EXPECT_TRUE(engine.Cancel("r0"));
  const int64_t steps = model.steps;
  const FinishedEvent cancelled = listeners[0]->Wait();
  EXPECT_LE(steps_at_end, steps + 1);  // the step in flight at most
  EXPECT_EQ(cancelled.reason, FinishReason::kCancelled);
  EXPECT_EQ(cancelled.status.code(), absl::StatusCode::kCancelled);
  const FinishedEvent late = listeners[1]->Wait();
  EXPECT_EQ(late.reason, FinishReason::kDeadline);
  EXPECT_EQ(late.status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_GT(late.usage.weight_byte_us, ByteMicros{0});
  for (int i = 2; i < 8; ++i) {
    EXPECT_EQ(listeners[i]->Wait().reason, FinishReason::kLength);
    for (const TokenEvent& token : listeners[i]->tokens()) {
      if (i == 7) std::this_thread::sleep_for(1ms);
      slowly_read.push_back(token);
    }
    ExpectOfflineTokens(options, requests[i], *listeners[i]);
  }
  EXPECT_EQ(slowly_read.size(), 6u * 30u);
  EXPECT_FALSE(engine.Cancel("r0"));
  EXPECT_TRUE(engine.Drain(10s));
  ExpectAllFree(engine);
}

TEST(Engine, EndTokenStopIdsAndMinimum) {
  const FakeModel::Options likely_end{.eos_logit = 10};
  FakeModel model(likely_end);
  Engine engine(model, ByteTokenizer(), {});
  const auto run = [&](EngineRequest request) {
    auto listener = std::make_shared<RecordingListener>();
    EXPECT_TRUE(engine.Submit(std::move(request), listener).ok());
    listener->Wait();
    return listener;
  };
  EngineRequest request = MakeRequest({1, 2}, 10, "q2.0");
  auto ended = run(request);
  EXPECT_EQ(ended->ids(), std::vector<int32_t>{kFakeEos});
  EXPECT_EQ(ended->Wait().reason, FinishReason::kStop);
  EXPECT_EQ(ended->Wait().matched_stop, "<|end|>");
  EXPECT_EQ(ended->text(), "");

  request.stopping.min_new_tokens = 4;
  auto later = run(request);
  const std::vector<int32_t> ids = later->ids();
  ASSERT_EQ(ids.size(), 5u);
  for (size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(ids[i] == kFakeEos, i == 4);

  request.stopping.min_new_tokens = 0;
  request.stopping.ignore_eos = true;
  auto ignored = run(request);
  EXPECT_EQ(ignored->ids(), std::vector<int32_t>(10, kFakeEos));
  EXPECT_EQ(ignored->Wait().reason, FinishReason::kLength);

  request.stopping.stop_token_ids = {kFakeEos};  // an explicit stop id counts even then
  EXPECT_EQ(run(request)->Wait().reason, FinishReason::kStop);
}

TEST(Engine, StopStringsAcrossTokens) {
  const FakeModel::Options options;
  FakeModel model(options);
  Engine engine(model, ByteTokenizer(), {});
  // Bias the model to printable text, so that bytes are characters.
  EngineRequest request = MakeRequest({10, 20, 30}, 60, "q3.0");
  for (int32_t id = 0; id < 257; ++id) {
    if (id < 'a' || id > 'c') request.sampling.logit_bias[id] = -100;
  }
  auto plain = std::make_shared<RecordingListener>();
  ASSERT_TRUE(engine.Submit(request, plain).ok());
  plain->Wait();
  const std::string text = plain->text();
  ASSERT_EQ(text.size(), 60u);

  const std::string stop = text.substr(20, 5);
  const size_t first = text.find(stop);
  request.stopping.stop_strings = {"zzz", stop};
  auto stopped = std::make_shared<RecordingListener>();
  ASSERT_TRUE(engine.Submit(request, stopped).ok());
  const FinishedEvent end = stopped->Wait();
  EXPECT_EQ(end.reason, FinishReason::kStop);
  EXPECT_EQ(end.matched_stop, stop);
  EXPECT_EQ(stopped->text(), text.substr(0, first));
  EXPECT_EQ(end.usage.generated_tokens, static_cast<int64_t>(first) + 5);

  request.stopping.min_new_tokens =
      static_cast<int64_t>(first) + 6;  // one past where it was complete
  auto minimum = std::make_shared<RecordingListener>();
  ASSERT_TRUE(engine.Submit(request, minimum).ok());
  EXPECT_GE(minimum->Wait().usage.generated_tokens, request.stopping.min_new_tokens);
  EXPECT_EQ(minimum->text().substr(0, first + 5), text.substr(0, first + 5));
}

TEST(Engine, StreamedTextIsWholeUtf8) {
  FakeModel model({});
  Engine engine(model, ByteTokenizer(), {});
  EngineRequest request = MakeRequest({1}, 2, "q2.0");
  request.sampling.logit_bias = {{0xE2, 100.0F}};
  auto listener = std::make_shared<RecordingListener>();
  ASSERT_TRUE(engine.Submit(request, listener).ok());
  const FinishedEvent end = listener->Wait();
  // E2 E2: the first is invalid once the second comes, the second is incomplete at the end.
  EXPECT_EQ(listener->tokens()[0].text, "");
  EXPECT_EQ(listener->tokens()[1].text, "\xEF\xBF\xBD");
  EXPECT_EQ(end.tail_text, "\xEF\xBF\xBD");
}

TEST(Engine, LogprobsComeWithTokens) {
  FakeModel model({});
  Engine engine(model, ByteTokenizer(), {});
  EngineRequest request = MakeRequest({1, 2, 3}, 3, "q2.0");
  request.sampling.top_logprobs = 4;
  auto listener = std::make_shared<RecordingListener>();
  ASSERT_TRUE(engine.Submit(request, listener).ok());
  listener->Wait();
  for (const TokenEvent& token : listener->tokens()) {
    ASSERT_EQ(token.sampled.top.size(), 4u);
    EXPECT_EQ(token.sampled.top[0].id, token.id);
    EXPECT_FLOAT_EQ(token.sampled.top[0].logprob, token.sampled.logprob);
  }
}

TEST(Engine, RefusesWhatItCannotServe) {
  FakeModel model({.block_tokens = 4, .num_blocks = 8, .max_context = 100});
  RecordingObserver observer;
  Engine engine(model, ByteTokenizer(), {.observer = &observer});
  const auto refused = [&](EngineRequest request) {
    auto listener = std::make_shared<RecordingListener>();
    const auto result = engine.Submit(std::move(request), listener);
    EXPECT_FALSE(result.ok());
    EXPECT_FALSE(listener->finished());
    return result.status();
  };
  const auto message = [](const absl::Status& status) { return std::string(status.message()); };
  EXPECT_THAT(message(refused(MakeRequest({}, 5))), HasSubstr("prompt is empty"));
  EXPECT_THAT(message(refused(MakeRequest({1, 257}, 5))), HasSubstr("prompt token 1 is 257"));
  EXPECT_THAT(message(refused(MakeRequest({-1}, 5))), HasSubstr("prompt token 0"));
  EXPECT_THAT(message(refused(MakeRequest({1}, 0))), HasSubstr("max_new_tokens"));
  EXPECT_THAT(message(refused(MakeRequest({1}, 100))), HasSubstr("context"));
  EXPECT_THAT(message(refused(MakeRequest({1}, INT64_MAX))), HasSubstr("context"));
  EXPECT_THAT(message(refused(MakeRequest({1}, 40))), HasSubstr("state pool"));
  EngineRequest request = MakeRequest({1}, 5);
  request.stopping.min_new_tokens = 6;
  EXPECT_THAT(message(refused(request)), HasSubstr("min_new_tokens"));
  request = MakeRequest({1}, 5);
  request.stopping.stop_strings = {""};
  EXPECT_THAT(message(refused(request)), HasSubstr("stop string"));
  request.stopping.stop_strings = {"\x82\xAC"};
  EXPECT_THAT(message(refused(request)), HasSubstr("UTF-8"));
  request.stopping.stop_strings = {};
  request.stopping.stop_token_ids = {257};
  EXPECT_THAT(message(refused(request)), HasSubstr("stop_token_ids"));
  request = MakeRequest({1}, 5);
  request.sampling.top_p = 2;
  EXPECT_THAT(message(refused(request)), HasSubstr("top_p"));
  request = MakeRequest({1}, 5, "q9");
  EXPECT_EQ(refused(request).code(), absl::StatusCode::kNotFound);
  request = MakeRequest({1}, 5, "q2.0");
  request.precision.min_lambda = 0.9;
  const absl::Status floor = refused(request);
  EXPECT_EQ(floor.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(message(floor), StartsWith("PRECISION_FLOOR_UNAVAILABLE: "));
  request = MakeRequest({1}, 5);
  request.deadline = EngineClock::now() - 1ms;
  EXPECT_EQ(refused(request).code(), absl::StatusCode::kDeadlineExceeded);
  request = MakeRequest({1}, 5);
  request.request_id = std::string(300, 'x');
  EXPECT_THAT(message(refused(request)), HasSubstr("request_id"));
  EXPECT_EQ(observer.rejected, 16);
  // Exactly what fits is served: the last token needs no room.
  auto listener = std::make_shared<RecordingListener>();
  ASSERT_TRUE(engine.Submit(MakeRequest({1}, 32), listener).ok());
  EXPECT_EQ(listener->Wait().usage.generated_tokens, 32);
}

TEST(Engine, QueueLimitDuplicatesAndDraining) {
  FakeModel model({.delay = 5ms});
  Engine engine(model, ByteTokenizer(), {.max_batch = 1, .max_waiting = 2});
  std::vector<std::shared_ptr<RecordingListener>> listeners;
  const auto submit = [&](const std::string& id, int64_t max_new) {
    EngineRequest request = MakeRequest({1, 2}, max_new, "q2.0");
    request.request_id = id;
    listeners.push_back(std::make_shared<RecordingListener>());
    return engine.Submit(request, listeners.back()).status();
  };
  ASSERT_TRUE(submit("a", 100).ok());
  ASSERT_TRUE(listeners[0]->WaitForTokens(1));  // it runs, so the queue is empty
  EXPECT_EQ(submit("a", 5).code(), absl::StatusCode::kAlreadyExists);
  ASSERT_TRUE(submit("b", 5).ok());
  ASSERT_TRUE(submit("c", 5).ok());
  const absl::Status full = submit("d", 5);
  EXPECT_EQ(full.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(full.message()), StartsWith("QUEUE_FULL: "));
  EXPECT_EQ(engine.load().running, 1);
  EXPECT_EQ(engine.load().waiting, 2);
  EXPECT_FALSE(engine.Drain(1ms));
  EXPECT_TRUE(engine.load().draining);
  const absl::Status draining = submit("e", 5);
  EXPECT_EQ(draining.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(draining.message()), StartsWith("DRAINING: "));
  EXPECT_TRUE(engine.Cancel("a"));
  EXPECT_TRUE(engine.Cancel("b"));
  EXPECT_TRUE(engine.Drain(20s));
  EXPECT_EQ(listeners[0]->Wait().reason, FinishReason::kCancelled);
  EXPECT_EQ(listeners[3]->Wait().reason, FinishReason::kLength);  // "c" was served while draining
  ExpectAllFree(engine);
}

TEST(Engine, AnImpossibleDeadlineIsRefusedBeforeWork) {
  FakeModel model({.num_blocks = 128, .max_context = 512, .delay = 20ms});
  Engine engine(model, ByteTokenizer(), {.prefill_chunk_tokens = 32});
  auto listener = std::make_shared<RecordingListener>();
  ASSERT_TRUE(engine.Submit(MakeRequest(std::vector<int32_t>(64, 1), 1, "q2.0"), listener).ok());
  listener->Wait();  // now it knows: 32 tokens in 20 ms
  EngineRequest request = MakeRequest(std::vector<int32_t>(400, 1), 1, "q2.0");
  request.deadline = EngineClock::now() + 100ms;
  const auto result = engine.Submit(request, std::make_shared<RecordingListener>());
  EXPECT_EQ(result.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("400 tokens"));
  request.deadline = EngineClock::now() + 60s;
  auto patient = std::make_shared<RecordingListener>();
  ASSERT_TRUE(engine.Submit(request, patient).ok());
  EXPECT_EQ(patient->Wait().reason, FinishReason::kLength);
}

TEST(Engine, DestructionFinishesWhatLives) {
  FakeModel model({.delay = 5ms});
  std::vector<std::shared_ptr<RecordingListener>> listeners;
  {
    Engine engine(model, ByteTokenizer(), {.max_batch = 2});
    for (int i = 0; i < 5; ++i) {
      listeners.push_back(std::make_shared<RecordingListener>());
      ASSERT_TRUE(engine.Submit(MakeRequest({1, 2, 3}, 100, "q2.0"), listeners.back()).ok());
    }
    ASSERT_TRUE(listeners[0]->WaitForTokens(1));
  }
  for (const auto& listener : listeners) {
    ASSERT_TRUE(listener->finished());
    EXPECT_EQ(listener->Wait().reason, FinishReason::kDrained);
    EXPECT_THAT(std::string(listener->Wait().status.message()), StartsWith("DRAINING: "));
  }
}

TEST(Engine, AListenerMayCancelItselfAndSubmitMore) {
  FakeModel model({});
  Engine engine(model, ByteTokenizer(), {});
  auto next = std::make_shared<RecordingListener>();
  auto first = std::make_shared<RecordingListener>();
  first->on_token = [&](const TokenEvent&) {
    if (engine.Cancel("self")) {
      EngineRequest more = MakeRequest({9}, 3, "q2.0");
      more.request_id = "more";
      (void)engine.Submit(more, next);
    }
  };
  EngineRequest request =
      MakeRequest({1}, 1, "q2.0");  // its only token also ends it; the cancellation still counts
  request.request_id = "self";
  ASSERT_TRUE(engine.Submit(request, first).ok());
  EXPECT_EQ(first->Wait().reason, FinishReason::kCancelled);
  EXPECT_EQ(next->Wait().reason, FinishReason::kLength);
}

TEST(Engine, LogitsWithoutAnyTokenEndInAnError) {
  FakeModel model({.eos_logit = std::numeric_limits<float>::quiet_NaN()});
  Engine engine(model, ByteTokenizer(), {});
  EngineRequest request = MakeRequest({1}, 3, "q2.0");
  for (int32_t id = 0; id < 256; ++id) request.stopping.stop_token_ids.push_back(id);
  request.stopping.min_new_tokens = 1;  // bans every token that has a number
  auto listener = std::make_shared<RecordingListener>();
  ASSERT_TRUE(engine.Submit(request, listener).ok());
  const FinishedEvent end = listener->Wait();
  EXPECT_EQ(end.reason, FinishReason::kError);
  EXPECT_EQ(end.status.code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(engine.Drain(10s));
  ExpectAllFree(engine);
}

TEST(Engine, FinishReasonNames) {
  EXPECT_EQ(FinishReasonName(FinishReason::kStop), "STOP");
  EXPECT_EQ(FinishReasonName(FinishReason::kDrained), "DRAINED");
}

}  // namespace
}  // namespace lift
