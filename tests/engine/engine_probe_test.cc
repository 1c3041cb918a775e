// The router's look at the last token of a prompt at a coarse variant.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "router/predictor.h"
#include "tests/engine/engine_fixture.h"

namespace lift {
namespace {

using namespace std::chrono_literals;

constexpr double kProbeBits = 3;  // q3.0 of the fake model

// Harm 1 where the probe lost more than `nats`, else -1; unknown counts as little.
router::RouterConfig ProbingRouter(double nats) {
  const auto names = router::FeatureNames();
  router::Predictor::Tree tree(3);
  tree[0] = {
      .feature = static_cast<int>(std::find(names.begin(), names.end(), "probe") - names.begin()),
      .threshold = std::log(nats),
      .low = 1,
      .high = 2,
      .unknown_is_low = true,
      .value = 0};
  tree[1].value = -1, tree[2].value = 1;
  router::Predictor::Parts parts;
  parts.trees = {tree};
  parts.curve = {{2, std::log(0.4), 3}, {3, std::log(0.1), 3}, {4, std::log(0.02), 3}};
  parts.finest_bits = 6;
  parts.probe_bits = kProbeBits;
  parts.quantiles = {-1, 0, 1};
  parts.version = "trained-x";
  return {.policy = {.kind = router::Policy::Kind::kQuality, .max_loss = 0.05},
          .predictor = *router::Predictor::Create(parts)};
}

// The last token's logits at `variant` over a prompt that the finest variant read.
std::vector<float> LookAt(const FakeModel::Options& options, std::span<const int32_t> prompt,
                          int variant) {
  FakeModel model(options);
  std::vector<int32_t> blocks;
  for (int32_t i = 0; i < options.num_blocks; ++i) blocks.push_back(i);
  const int finest = static_cast<int>(model.variants().size()) - 1;
  const auto length = static_cast<int64_t>(prompt.size());
  const SequenceChunk step[] = {
      {.tokens = prompt, .blocks = blocks, .variant = finest, .prefill = ReadAsPrompt(length)},
      {.tokens = prompt.last(1),
       .position = length - 1,
       .blocks = blocks,
       .variant = variant,
       .look = true}};
  std::vector<float> logits;
  model.Step(step, logits);
  return logits;
}

double ProbeKl(const FakeModel::Options& options, std::span<const int32_t> prompt) {
  const std::vector<float> logits = LookAt(options, prompt, 1);
  const auto half = logits.size() / 2;
  return router::KlOfLogits(std::span(logits).first(half), std::span(logits).last(half));
}

// Prompts of all lengths, many at once, over a small pool and in small chunks: what the probe saw
// decides, and the tokens are those of an engine that never probes.
TEST(Probe, DecidesAndChangesNoToken) {
  const FakeModel::Options fake{
      .block_tokens = 3, .num_blocks = 60, .max_context = 64, .full = false};
  std::mt19937_64 rng(3);
  std::vector<EngineRequest> requests;
  std::vector<double> kl;
  for (int i = 0; i < 40; ++i) {
    requests.push_back(RandomRequest(rng, 30, 12));
    requests.back().precision = {};
    kl.push_back(ProbeKl(fake, requests.back().prompt));
  }
  std::vector<double> sorted = kl;
  std::sort(sorted.begin(), sorted.end());
  ASSERT_GT(sorted.front(), 0);
  const double middle = (sorted[19] + sorted[20]) / 2;
  FakeModel model(fake);
  EngineOptions options;
  options.max_batch = 5;
  options.prefill_chunk_tokens = 7;
  options.router = ProbingRouter(middle);
  Engine engine(model, ByteTokenizer(), options);
  std::vector<std::shared_ptr<RecordingListener>> listeners;
  for (const EngineRequest& request : requests) {
    listeners.push_back(std::make_shared<RecordingListener>());
    ASSERT_TRUE(engine.Submit(request, listeners.back()).ok());
  }
  std::set<int> served;
  for (size_t i = 0; i < requests.size(); ++i) {
    listeners[i]->Wait();
    ExpectOfflineTokens(fake, requests[i], *listeners[i]);
    const double harm = listeners[i]->started()->decision.score;
    EXPECT_EQ(harm, kl[i] > middle ? 1 : 0) << i;
    served.insert(listeners[i]->started()->variant);
  }
  EXPECT_EQ(served.size(), 2u);  // who loses much is served finer
  EXPECT_TRUE(engine.Drain(10s));
  ExpectAllFree(engine);
}

// Which steps look, and at what.
int Looks(EngineOptions options, const EngineRequest& request, FakeModel::Options fake = {}) {
  fake.full = false;
  Harness harness(options, fake);
  std::atomic<int> looks{0};
  harness.model.on_step = [&](std::span<const SequenceChunk> step) {
    for (const SequenceChunk& chunk : step) {
      if (!chunk.look) continue;
      ++looks;
      EXPECT_EQ(chunk.variant, 1);
      EXPECT_EQ(chunk.tokens.size(), 1u);
      EXPECT_EQ(chunk.position, static_cast<int64_t>(request.prompt.size()) - 1);
    }
  };
  harness.Run(request);
  return looks;
}

TEST(Probe, OncePerRequestAndOnlyWhereItCanMatter) {
  EngineOptions options;
  options.router = ProbingRouter(0.1);
  EXPECT_EQ(Looks(options, MakeRequest({1, 2, 3}, 5)), 1);
  EXPECT_EQ(Looks(options, MakeRequest({1}, 5)), 1);
  EXPECT_EQ(Looks(options, MakeRequest(Prompt(40, 7), 5)), 1);
  EXPECT_EQ(Looks(options, MakeRequest({1, 2, 3}, 5, "q4.0")), 0);  // pinned
  EXPECT_EQ(Looks(options, MakeRequest({1, 2, 3}, 5), {.recurrent = true}), 0);
  EngineRequest several = MakeRequest({1, 2, 3}, 5);
  several.choices = 1;
  several.prompt_logprobs = 0;  // all rows of the prompt come before the probe's
  EXPECT_EQ(Looks(options, several), 1);
  options.router.policy = {.kind = router::Policy::Kind::kFixed, .variant = "q4.0"};
  EXPECT_EQ(Looks(options, MakeRequest({1, 2, 3}, 5)), 0);
  options.router = {};
  EXPECT_EQ(Looks(options, MakeRequest({1, 2, 3}, 5)), 0);
}

// Several answers to one prompt are decided by one look.
TEST(Probe, ChoicesShareIt) {
  EngineOptions options;
  options.router = ProbingRouter(0.1);
  const FakeModel::Options fake{.full = false};
  FakeModel model(fake);
  std::atomic<int> looks{0};
  model.on_step = [&](std::span<const SequenceChunk> step) {
    for (const SequenceChunk& chunk : step) looks += chunk.look ? 1 : 0;
  };
  Engine engine(model, ByteTokenizer(), options);
  EngineRequest request = MakeRequest(Prompt(20, 7), 5);
  request.choices = 3;
  auto listener = std::make_shared<RecordingListener>();
  ASSERT_TRUE(engine.Submit(request, listener).ok());
  listener->Wait();
  EXPECT_EQ(looks, 1);
}

}  // namespace
}  // namespace lift
