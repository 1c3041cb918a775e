// Constrained answers: what they say, and that nothing else changes them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <regex>

#include "server/engine/stop_matcher.h"
#include "server/errors.h"
#include "tests/engine/engine_fixture.h"

namespace lift {
namespace {

using namespace std::chrono_literals;

std::shared_ptr<const ConstraintSource> RegexSource(const std::string& pattern) {
  return ConstraintSource::Regex(pattern).value();
}

// The plainest loop: what may not follow is given to the sampler as a list of banned tokens.
std::vector<int32_t> OfflineConstrained(FakeModel::Options options, const EngineRequest& request,
                                        int choice, int variant) {
  options.num_blocks = options.max_context / options.block_tokens + 1;
  options.delay = {};
  FakeModel model(options);
  const auto tokenizer = ByteTokenizer();
  const auto constraint =
      CompiledConstraint::Compile(*request.constraint, tokenizer, TokenTrie(*tokenizer)).value();
  std::vector<int32_t> blocks;
  for (int64_t i = 0; i < options.num_blocks; ++i) blocks.push_back(static_cast<int32_t>(i));
  SamplingParams sampling = request.sampling;
  sampling.seed = ChoiceSeed(sampling.seed, choice);
  TokenHistory history;
  history.AddPrompt(request.prompt);
  StopMatcher stops(request.stopping.stop_strings);
  StreamDecoder decoder(*tokenizer);
  std::vector<int32_t> out;
  std::vector<float> logits;
  SequenceChunk chunk{.tokens = request.prompt,
                      .position = 0,
                      .blocks = blocks,
                      .variant = static_cast<int>(model.variants().size()) - 1,
                      .logits = SequenceChunk::Logits::kLast};
  int32_t state = constraint->start();
  int32_t last = 0;
  while (static_cast<int64_t>(out.size()) < request.stopping.max_new_tokens) {
    model.Step(std::span(&chunk, 1), logits);
    const auto made = static_cast<int64_t>(out.size());
    const bool may_end = made >= request.stopping.min_new_tokens && !request.stopping.ignore_eos;
    std::vector<int32_t> banned;
    for (int32_t id = 0; id < kFakeVocab; ++id) {
      const bool allowed = id == kFakeEos ? constraint->Accepts(state) && may_end
                                          : constraint->Advance(state, id) >= 0;
      if (!allowed) banned.push_back(id);
    }
    last = Sample(logits, sampling, history, made, banned).id;
    history.AddGenerated(last);
    out.push_back(last);
    if (last == kFakeEos) break;
    const std::string text = decoder.Push(last);
    const bool looking = made + 1 >= request.stopping.min_new_tokens;
    if (looking && stops.Push(text).matched >= 0) break;
    state = constraint->Advance(state, last);
    if (constraint->Complete(state)) break;
    chunk.position += static_cast<int64_t>(chunk.tokens.size());
    chunk.tokens = std::span<const int32_t>(&last, 1);
    chunk.variant = variant;
  }
  return out;
}

EngineRequest RandomConstrained(std::mt19937_64& rng) {
  static const char* const kPatterns[] = {"[a-c]{3,30}",   "(ab|[0-9]+,)*x",
                                          "(é|€|x){1,20}", "\\w+( \\w+)*\\.",
                                          "a{5}b?",        "[^\\x00-\\x7f]{2,5}"};
  EngineRequest request = RandomRequest(rng, 18, 40);
  request.constraint = RegexSource(kPatterns[rng() % std::size(kPatterns)]);
  if (rng() % 3 == 0) request.sampling.logit_bias = {{'a', 6.5F}, {'x', 6.0F}};
  if (rng() % 3 == 0) request.sampling.frequency_penalty = 0.5;
  if (rng() % 4 == 0) request.stopping.min_new_tokens = 1 + static_cast<int64_t>(rng() % 4);
  request.stopping.min_new_tokens =
      std::min(request.stopping.min_new_tokens, request.stopping.max_new_tokens);
  if (rng() % 4 == 0) request.stopping.stop_strings = {"bb", "1,"};
  if (rng() % 4 == 0) request.stopping.ignore_eos = true;
  if (rng() % 4 == 0) request.choices = 3;
  if (rng() % 4 == 0) request.cache.bypass = true;
  return request;
}

// Tokens of one of several answers.
std::vector<int32_t> IdsOf(RecordingListener& listener, int choice) {
  std::vector<int32_t> ids;
  for (const TokenEvent& token : listener.tokens()) {
    if (token.choice == choice) ids.push_back(token.id);
  }
  return ids;
}

// In batches, chunks, a pool that is too small, with prefix hits and guesses, beside requests
// without a constraint.
TEST(Constraint, AnswersAreTheOnesOfThePlainLoop) {
  std::mt19937_64 rng(14);
  int64_t guessed = 0;
  for (int trial = 0; trial < 24; ++trial) {
    const FakeModel::Options options{.block_tokens = 1 + static_cast<int64_t>(rng() % 5),
                                     .num_blocks = 70,
                                     .max_context = 64,
                                     .eos_logit = rng() % 2 == 0 ? 3.6F : -10};
    FakeModel model(options);
    Engine engine(model, ByteTokenizer(),
                  {.max_batch = 6, .router = {.most_drafts = trial % 2 == 0 ? 4 : 0}});
    std::vector<EngineRequest> requests;
    std::vector<std::shared_ptr<RecordingListener>> listeners;
    for (int i = 0; i < 12; ++i) {
      requests.push_back(i % 4 == 3 ? RandomRequest(rng, 18, 40) : RandomConstrained(rng));
      listeners.push_back(std::make_shared<RecordingListener>());
      ASSERT_TRUE(engine.Submit(requests.back(), listeners.back()).ok());
    }
    for (size_t i = 0; i < requests.size(); ++i) {
      const FinishedEvent finished = listeners[i]->Wait();
      ASSERT_TRUE(finished.status.ok()) << finished.status;
      if (requests[i].constraint == nullptr) {
        ExpectOfflineTokens(options, requests[i], *listeners[i]);
        continue;
      }
      for (int c = 0; c < requests[i].choices; ++c) {
        EXPECT_EQ(IdsOf(*listeners[i], c),
                  OfflineConstrained(options, requests[i], c, listeners[i]->started()->variant))
            << requests[i].constraint->key();
      }
    }
    guessed += engine.speculation().looked_up + engine.speculation().drafted;
    EXPECT_TRUE(engine.Drain(10s));
    ExpectAllFree(engine);
    if (HasFailure()) return;
  }
  EXPECT_GT(guessed, 100);
}

TEST(Constraint, EndsWhereNothingCanFollowAndNotBefore) {
  FakeModel model({.eos_logit = 100});  // wants to end at once
  Engine engine(model, ByteTokenizer(), {});
  EngineRequest request = MakeRequest({1, 2, 3}, 100);
  request.constraint = RegexSource("[a-z]{4}-[0-9]{2}");
  auto listener = std::make_shared<RecordingListener>();
  ASSERT_TRUE(engine.Submit(request, listener).ok());
  EXPECT_EQ(listener->Wait().reason, FinishReason::kStop);
  EXPECT_TRUE(std::regex_match(listener->text(), std::regex("[a-z]{4}-[0-9]{2}")))
      << listener->text();
  EXPECT_EQ(listener->ids().size(), 7u);  // and no end token

  // Where more could follow, the end token ends it; with ignore_eos nothing but the length does.
  request.constraint = RegexSource("a+");
  listener = std::make_shared<RecordingListener>();
  ASSERT_TRUE(engine.Submit(request, listener).ok());
  EXPECT_EQ(listener->Wait().reason, FinishReason::kStop);
  EXPECT_EQ(listener->ids(), (std::vector<int32_t>{'a', kFakeEos}));
  request.stopping.ignore_eos = true;
  listener = std::make_shared<RecordingListener>();
  ASSERT_TRUE(engine.Submit(request, listener).ok());
  EXPECT_EQ(listener->Wait().reason, FinishReason::kLength);
  EXPECT_EQ(listener->text(), std::string(100, 'a'));
}

TEST(Constraint, StopTokensAndMinTokensYieldWhereNothingElseIsLeft) {
  FakeModel model({});
  Engine engine(model, ByteTokenizer(), {});
  EngineRequest request = MakeRequest({5}, 20);
  request.constraint = RegexSource("ab,cd");
  request.stopping.stop_token_ids = {','};
  request.stopping.min_new_tokens = 10;
  auto listener = std::make_shared<RecordingListener>();
  ASSERT_TRUE(engine.Submit(request, listener).ok());
  EXPECT_EQ(listener->Wait().reason, FinishReason::kStop);
  EXPECT_EQ(listener->text(), "ab");
  EXPECT_EQ(listener->ids(), (std::vector<int32_t>{'a', 'b', ','}));
}

TEST(Constraint, OneThatCannotBeMetEndsItsRequestOnly) {
  FakeModel model({});
  RecordingObserver observer;
  {
    Engine engine(model, ByteTokenizer(), {.observer = &observer});
    std::vector<std::shared_ptr<RecordingListener>> listeners;
    for (const char* pattern : {"(a|b)*a(a|b){25}", "[a-c]{5}"}) {
      EngineRequest request = MakeRequest({1, 2}, 30);
      request.constraint = RegexSource(pattern);
      listeners.push_back(std::make_shared<RecordingListener>());
      ASSERT_TRUE(engine.Submit(request, listeners.back()).ok());
    }
    const FinishedEvent wrong = listeners[0]->Wait();
    EXPECT_EQ(wrong.reason, FinishReason::kError);
    EXPECT_EQ(wrong.status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(ErrorReason(wrong.status), "CONSTRAINT_TOO_LARGE");
    EXPECT_EQ(ErrorField(wrong.status), "constraint.regex");
    EXPECT_FALSE(listeners[0]->started().has_value());
    EXPECT_EQ(listeners[1]->Wait().reason, FinishReason::kStop);
    ExpectAllFree(engine);
  }
  EXPECT_EQ(observer.admitted, 2);
  EXPECT_EQ(observer.finished, 2);
}

// Others do not wait for a constraint that takes long, and it can be given up.
TEST(Constraint, CompilingHoldsUpNobodyElse) {
  FakeModel model({});
  Engine engine(model, ByteTokenizer(), {});
  std::vector<std::shared_ptr<RecordingListener>> slow;
  for (int i = 0; i < 8; ++i) {
    EngineRequest request = MakeRequest({1, 2}, 30);
    request.request_id = absl::StrCat("slow-", i);
    // Each of them takes the compiler as long as a constraint may.
    request.constraint = RegexSource(absl::StrCat("(\\w{1,90}\\s?){1,", 80 + i, "}"));
    if (i == 7) request.deadline = EngineClock::now() + 30ms;
    slow.push_back(std::make_shared<RecordingListener>());
    ASSERT_TRUE(engine.Submit(request, slow.back()).ok());
  }
  auto quick = std::make_shared<RecordingListener>();
  ASSERT_TRUE(engine.Submit(MakeRequest({3}, 20), quick).ok());
  quick->Wait();
  EXPECT_FALSE(slow[6]->finished());
  EXPECT_TRUE(engine.Cancel("slow-6"));
  EXPECT_EQ(slow[6]->Wait().reason, FinishReason::kCancelled);
  EXPECT_EQ(slow[7]->Wait().reason, FinishReason::kDeadline);
}

}  // namespace
}  // namespace lift
