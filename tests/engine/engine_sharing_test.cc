// What sequences share: prefixes, and the machine among tenants.
#include <gtest/gtest.h>

#include <future>

#include "tests/engine/engine_fixture.h"

namespace lift {
namespace {

using namespace std::chrono_literals;

TEST(PrefixReuse, ASecondPromptReadsOnlyItsEnd) {
  Harness h;
  EngineRequest request = MakeRequest(Prompt(42, 7), 6, "q3.0");
  EXPECT_EQ(h.Run(request)->started()->cached_tokens, 0);
  int64_t read = 0;
  h.model.on_step = [&](std::span<const SequenceChunk> chunks) {
    for (const auto& chunk : chunks) read += static_cast<int64_t>(chunk.tokens.size());
  };
  auto again = h.Run(request);
  EXPECT_EQ(again->started()->cached_tokens, 40);
  EXPECT_EQ(again->Wait().usage.cached_tokens, 40);
  EXPECT_EQ(read, 2 + 5);  // the rest of the prompt, and all answer tokens but the last
  // The same start with another end, and another variant decoding: shared as far as it is equal.
  request.prompt = Prompt(30, 9);
  request.precision.variant = "full";
  EXPECT_EQ(h.Run(request)->started()->cached_tokens, 28);
  EXPECT_TRUE(h.engine.Drain(10s));
  ExpectAllFree(h.engine);
  EXPECT_GT(h.engine.load().blocks_cached, 0);
}

TEST(PrefixReuse, AnswersAreReusedAtThePrecisionTheyHad) {
  Harness h;
  for (const char* variant : {"q2.0", "full"}) {
    EngineRequest first = MakeRequest(Prompt(21, variant[0]), 20, variant);
    auto turn = h.Run(first);
    EngineRequest second = MakeRequest(first.prompt, 4, variant);
    const auto answer = turn->ids();
    second.prompt.insert(second.prompt.end(), answer.begin(), answer.end());
    second.prompt.push_back(5);
    // A prompt is read at the finest variant, so what a coarse one left cannot stand for it.
    EXPECT_EQ(h.Run(second)->started()->cached_tokens, variant[0] == 'q' ? 20 : 40);
  }
}

// Planes round a prompt's tokens in another way than an answer's.
TEST(PrefixReuse, AnswersOfPlanesDoNotStandForPrompts) {
  FakeModel::Options planes_only;
  planes_only.full = false;
  Harness h({}, planes_only);
  EngineRequest first = MakeRequest(Prompt(21, 3), 20, "q6.0");
  auto turn = h.Run(first);
  EngineRequest second = MakeRequest(first.prompt, 4, "q6.0");
  const auto answer = turn->ids();
  second.prompt.insert(second.prompt.end(), answer.begin(), answer.end());
  second.prompt.push_back(5);
  auto again = h.Run(second);
  EXPECT_EQ(again->started()->cached_tokens, 20);
  EXPECT_EQ(again->ids(), OfflineTokens(planes_only, second.prompt, 3, second.sampling, 4));
}

TEST(PrefixReuse, TenantsSaltsAndBypassKeepApart) {
  Harness h;
  EngineRequest request = MakeRequest(Prompt(42, 7), 2, "q3.0");
  h.Run(request);
  request.tenant = "other";
  EXPECT_EQ(h.Run(request)->started()->cached_tokens, 0);
  EXPECT_EQ(h.Run(request)->started()->cached_tokens, 40);
  request.cache.salt = "s";
  EXPECT_EQ(h.Run(request)->started()->cached_tokens, 0);
  request.cache.bypass = true;
  EXPECT_EQ(h.Run(request)->started()->cached_tokens, 0);
  Harness open({.share_prefixes = true});
  request = MakeRequest(Prompt(42, 7), 2, "q3.0");
  open.Run(request);
  request.tenant = "other";
  EXPECT_EQ(open.Run(request)->started()->cached_tokens, 40);
  Harness off({.prefix_cache = false});
  off.Run(request);
  EXPECT_EQ(off.Run(request)->started()->cached_tokens, 0);
  EXPECT_EQ(off.engine.load().blocks_cached, 0);
}

TEST(PrefixReuse, AFullPoolForgetsAndStillServes) {
  Harness h;
  std::mt19937_64 rng(3);
  for (int i = 0; i < 60; ++i) {
    EngineRequest request =
        MakeRequest(Prompt(20 + static_cast<int64_t>(rng() % 60), 3), 30, "q4.0");
    for (size_t k = rng() % 20; k < request.prompt.size(); ++k) request.prompt[k] ^= i % 4;
    h.Run(request);
  }
}

// Four tenants want very different numbers of slots at once; each gets the same bytes x time.
TEST(Fairness, TenantsGetEqualBytesTimesSeconds) {
  FakeModel model({.num_blocks = 4096, .max_context = 64, .delay = 100us});
  RecordingObserver observer;
  std::map<std::string, ByteMicros> charged;
  {
    Engine engine(model, ByteTokenizer(),
                  {.max_batch = 16, .max_waiting = 4000, .observer = &observer});
    std::vector<std::shared_ptr<RecordingListener>> listeners;
    for (int i = 0; i < 1000; ++i) {
      // Tenant 0 asks seven times as often as tenant 3, and first.
      const int tenant = i < 400 ? 0 : i < 700 ? 1 : i < 900 ? 2 : 3;
      EngineRequest request = MakeRequest({i % 250, tenant}, tenant == 3 ? 40 : 20, "q3.0");
      request.tenant = absl::StrCat("t", tenant);
      request.priority = tenant == 0 ? 100 : 0;
      listeners.push_back(std::make_shared<RecordingListener>());
      ASSERT_TRUE(engine.Submit(request, listeners.back()).ok());
    }
    // Until the smallest demand is nearly met, everybody wants more.
    for (int i = 900; i < 980; ++i) listeners[i]->Wait();
    for (int i = 0; i < 1000; ++i) engine.Cancel(absl::StrCat("gen-", i + 1));
    for (auto& listener : listeners) listener->Wait();
  }
  double sum = 0, squares = 0;
  for (int t = 0; t < 4; ++t) {
    const auto x = static_cast<double>(observer.charged[absl::StrCat("t", t)]);
    EXPECT_GT(x, 0);
    sum += x;
    squares += x * x;
  }
  EXPECT_GE(sum * sum / (4 * squares), 0.95);  // Jain's index
}

TEST(Fairness, AFloodDoesNotKeepOthersWaiting) {
  FakeModel model({.num_blocks = 4096, .max_context = 2048, .delay = 200us});
  Engine engine(model, ByteTokenizer(), {.max_batch = 4, .max_waiting = 500, .patience = 20ms});
  std::vector<std::shared_ptr<RecordingListener>> flood;
  for (int i = 0; i < 40; ++i) {
    EngineRequest request = MakeRequest({i, 1}, 2000, "q3.0");
    request.tenant = "flood";
    request.priority = 100;
    flood.push_back(std::make_shared<RecordingListener>());
    ASSERT_TRUE(engine.Submit(request, flood.back()).ok());
  }
  ASSERT_TRUE(flood[0]->WaitForTokens(40));
  auto listener = std::make_shared<RecordingListener>();
  EngineRequest request = MakeRequest({9}, 20, "q3.0");
  ASSERT_TRUE(engine.Submit(request, listener).ok());
  EXPECT_EQ(listener->Wait().reason, FinishReason::kLength);
  ExpectOfflineTokens({.max_context = 2048}, request, *listener);
  for (auto& other : flood) EXPECT_FALSE(other->finished());
}

// More streams than places: counted in steps, nobody waits longer for a first token than the work
// before it takes, and nobody who has begun is passed over.
TEST(Fairness, NobodyStarvesAmongAThousandStreams) {
  constexpr int kStreams = 1000, kTenants = 10, kPlaces = 128;
  FakeModel model({.num_blocks = 8192, .max_context = 64});
  std::promise<void> all_submitted;
  model.on_step = [gate = all_submitted.get_future().share()](auto) { gate.wait(); };
  struct Stream {
    std::shared_ptr<RecordingListener> listener = std::make_shared<RecordingListener>();
    int64_t tokens = 0, first = -1, last = -1, longest_gap = 0;
  };
  std::vector<Stream> streams(kStreams);
  Engine engine(model, ByteTokenizer(), {.max_batch = kPlaces, .max_waiting = kStreams});
  int64_t work = 0;
  for (int i = 0; i < kStreams; ++i) {
    Stream& stream = streams[static_cast<size_t>(i)];
    stream.tokens = 10 + i % 31;
    work += stream.tokens;
    EngineRequest request = MakeRequest({i % 250, i % 7}, stream.tokens, "q3.0");
    request.tenant = absl::StrCat("t", i % kTenants);
    request.priority = i % kTenants == 0 ? 100 : 0;  // among its own only
    stream.listener->on_token = [&](const TokenEvent&) {
      const int64_t now = model.steps;
      if (stream.first < 0) stream.first = now;
      if (stream.last >= 0) stream.longest_gap = std::max(stream.longest_gap, now - stream.last);
      stream.last = now;
    };
    ASSERT_TRUE(engine.Submit(request, stream.listener).ok());
  }
  all_submitted.set_value();
  int64_t last_first = 0, longest_gap = 0;
  for (Stream& stream : streams) {
    EXPECT_EQ(stream.listener->Wait().usage.generated_tokens, stream.tokens);
    last_first = std::max(last_first, stream.first);
    longest_gap = std::max(longest_gap, stream.longest_gap);
  }
  EXPECT_LE(last_first, work / kPlaces + 40);  // 40: the longest answer
  EXPECT_LE(model.steps, work / kPlaces + 2 * 40);
  EXPECT_LE(longest_gap, 2);
}

}  // namespace
}  // namespace lift
