// Requests and expectations shared by the engine's tests.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/engine/fake_model.h"
#include "tests/engine/recording.h"

namespace lift {

inline EngineRequest MakeRequest(std::vector<int32_t> prompt, int64_t max_new,
                                 const std::string& variant = "") {
  EngineRequest request;
  request.prompt = std::move(prompt);
  request.stopping.max_new_tokens = max_new;
  if (!variant.empty()) {
    request.precision.mode = router::Mode::kPinned;
    request.precision.variant = variant;
  }
  return request;
}

inline EngineRequest RandomRequest(std::mt19937_64& rng, int64_t most_prompt, int64_t most_new) {
  static const char* const kVariants[] = {"q2.0", "q3.0", "q4.0", "q6.0", "full", ""};
  std::vector<int32_t> prompt(1 + rng() % static_cast<uint64_t>(most_prompt));
  for (int32_t& id : prompt) id = static_cast<int32_t>(rng() % 256);
  EngineRequest request = MakeRequest(
      std::move(prompt), 1 + static_cast<int64_t>(rng() % static_cast<uint64_t>(most_new)),
      kVariants[rng() % 6]);
  request.tenant = absl::StrCat("tenant-", rng() % 3);
  request.priority = static_cast<int>(rng() % 2);
  request.sampling.seed = rng();
  if (rng() % 2 == 0) request.sampling.temperature = 0.9;
  if (rng() % 4 == 0) request.sampling.repetition_penalty = 1.3;
  return request;
}

// The tokens that `listener`'s request must have had, at the variant it was started with.
inline void ExpectOfflineTokens(const FakeModel::Options& options, const EngineRequest& request,
                                RecordingListener& listener) {
  ASSERT_TRUE(listener.started().has_value());
  EXPECT_EQ(listener.ids(), OfflineTokens(options, request.prompt, listener.started()->variant,
                                          request.sampling, request.stopping.max_new_tokens));
}

inline void ExpectAllFree(const Engine& engine) {
  const EngineLoad load = engine.load();
  EXPECT_EQ(load.running, 0);
  EXPECT_EQ(load.waiting, 0);
  EXPECT_EQ(load.blocks_used, 0);
}

// Prompts that differ in their last token only, as far as both go.
inline std::vector<int32_t> Prompt(int64_t tokens, int32_t last) {
  std::vector<int32_t> prompt;
  for (int64_t i = 0; i + 1 < tokens; ++i) prompt.push_back(static_cast<int32_t>(i % 200));
  prompt.push_back(last);
  return prompt;
}

// An engine on a fake model whose every answer is compared with the offline one.
struct Harness {
  explicit Harness(EngineOptions options = {}, FakeModel::Options of_model = {})
      : fake(of_model), model(fake), engine(model, ByteTokenizer(), options) {}
  std::shared_ptr<RecordingListener> Run(const EngineRequest& request) {
    auto listener = std::make_shared<RecordingListener>();
    EXPECT_TRUE(engine.Submit(request, listener).ok());
    listener->Wait();
    ExpectOfflineTokens(fake, request, *listener);
    return listener;
  }
  FakeModel::Options fake;
  FakeModel model;
  Engine engine;
};

}  // namespace lift
