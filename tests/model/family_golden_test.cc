// Every family against Hugging Face transformers: three tiny models each, however their tokens are
// cut into steps, from folders and from GGUF files.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/model/npy.h"
#include "tests/model/runner.h"

namespace lift {
namespace {

using nlohmann::json;
using testing::TestModel;

constexpr double kTolerance = 1e-3;  // logits of a few units; the goal is 2e-3
const std::string kFamilies = LIFT_TEST_DATA "/families/";

// The emulator takes seconds where a device takes milliseconds: the first model of each family
// there, and the beginning of its tokens, unless LIFT_TEST_EVERYTHING is set.
bool Everything() {
#if defined(LIFT_CUDA_EMULATED)
  return std::getenv("LIFT_TEST_EVERYTHING") != nullptr;
#else
  return true;
#endif
}
constexpr size_t kFewTokens = 70;
constexpr int kFewSteps = 6;

std::vector<std::string> Models() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kFamilies)) {
    const std::string name = entry.path().filename().string();
    if (Everything() || name.find("-1") != std::string::npos) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

class FamilyGolden : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    auto weights = Weights::Open(kFamilies + GetParam());
    ASSERT_TRUE(weights.ok()) << weights.status();
    Transformer::Options options;
    options.block_tokens = 8;
    options.num_blocks = 256;
    model_ = std::make_unique<TestModel>(*weights, 2, options);
    ASSERT_TRUE(model_->status.ok()) << model_->status;
    // A GGUF twin shares its folder's goldens.
    const std::string folder = kFamilies + GetParam().substr(0, GetParam().find('.')) + "/";
    golden_ = json::parse(std::ifstream(folder + "golden.json"));
    tokens_ = golden_["token_ids"].get<std::vector<int32_t>>();
    columns_ = golden_["columns"].get<std::vector<size_t>>();
    expected_ = testing::ReadNpy(folder + "logits.npy").values;
    ASSERT_EQ(expected_.size(), tokens_.size() * (columns_.size() + 1));
    if (Everything()) return;
    tokens_.resize(kFewTokens);
    expected_.resize(kFewTokens * (columns_.size() + 1));
  }

  // The kept columns and the logsumexp of the rows, as the goldens hold them.
  std::vector<float> Kept(const std::vector<float>& logits) const {
    const auto vocab = static_cast<size_t>(model_->model->vocab_size());
    std::vector<float> kept;
    for (size_t row = 0; row < logits.size(); row += vocab) {
      double sum = 0;
      for (size_t i = 0; i < vocab; ++i) sum += std::exp(static_cast<double>(logits[row + i]));
      for (const size_t c : columns_) kept.push_back(logits[row + c]);
      kept.push_back(static_cast<float>(std::log(sum)));
    }
    return kept;
  }

  std::unique_ptr<TestModel> model_;
  json golden_;
  std::vector<int32_t> tokens_;
  std::vector<size_t> columns_;
  std::vector<float> expected_;
};

TEST_P(FamilyGolden, PrefillOf256Tokens) {
  EXPECT_LE(testing::MaxDifference(Kept(model_->Logits(tokens_, tokens_.size(), 0)), expected_),
            kTolerance);
}

TEST_P(FamilyGolden, StepByStepAndInChunksAreTheSameBits) {
  const auto whole = model_->Logits(tokens_, tokens_.size(), 0);
  EXPECT_EQ(whole, model_->Logits(tokens_, 1, 0));
  EXPECT_EQ(whole, model_->Logits(tokens_, 37, 0));
}

TEST_P(FamilyGolden, BatchOfUnequalLengthsIsTheSameBits) {
  const size_t lengths[] = {tokens_.size(), 5, tokens_.size() / 2 + 3};
  std::vector<std::vector<int32_t>> blocks;
  for (int s = 0; s < 3; ++s) blocks.push_back(model_->Blocks(s, 3));
  const auto all = std::span<const int32_t>(tokens_);
  std::vector<SequenceChunk> chunks;
  for (size_t s = 0; s < 3; ++s)
    chunks.push_back({all.first(lengths[s]), 0, blocks[s], 0, SequenceChunk::Logits::kAll});
  std::vector<float> logits, expected;
  model_->model->Step(chunks, logits);
  const auto whole = model_->Logits(tokens_, tokens_.size(), 0);
  const auto vocab = model_->model->vocab_size();
  for (const size_t length : lengths)
    expected.insert(expected.end(), whole.begin(),
                    whole.begin() + static_cast<std::ptrdiff_t>(length) * vocab);
  EXPECT_EQ(logits, expected);
}

TEST_P(FamilyGolden, GreedyGenerationOf128Tokens) {
  const auto vocab = static_cast<size_t>(model_->model->vocab_size());
  ASSERT_EQ(golden_["greedy"].size(), 5u);
  std::vector<std::vector<int32_t>> ids, blocks;
  for (const json& one : golden_["greedy"]) {
    ids.push_back(one["prompt"].get<std::vector<int32_t>>());
    blocks.push_back(model_->Blocks(static_cast<int64_t>(blocks.size()), 5));
  }
  std::vector<size_t> done(5, 0);
  const int steps = Everything() ? 128 : kFewSteps;
  for (int step = 0; step < steps; ++step) {  // the five side by side
    std::vector<SequenceChunk> chunks;
    for (size_t s = 0; s < 5; ++s) {
      chunks.push_back({std::span<const int32_t>(ids[s]).subspan(done[s]),
                        static_cast<int64_t>(done[s]), blocks[s], 0, SequenceChunk::Logits::kLast});
      done[s] = ids[s].size();
    }
    std::vector<float> logits;
    model_->model->Step(chunks, logits);
    for (size_t s = 0; s < 5; ++s) {
      const auto row = logits.begin() + static_cast<std::ptrdiff_t>(s * vocab);
      const auto best = std::max_element(row, row + static_cast<std::ptrdiff_t>(vocab));
      ids[s].push_back(static_cast<int32_t>(best - row));
    }
  }
  for (size_t s = 0; s < 5; ++s) {
    auto expected = golden_["greedy"][s]["prompt"].get<std::vector<int32_t>>();
    for (int i = 0; i < steps; ++i)
      expected.push_back(golden_["greedy"][s]["continuation"][static_cast<size_t>(i)]);
    EXPECT_EQ(ids[s], expected) << "prompt " << s;
  }
}

INSTANTIATE_TEST_SUITE_P(Tiny, FamilyGolden, ::testing::ValuesIn(Models()), [](const auto& info) {
  std::string name = info.param;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); },
      '_');
  return name;
});

}  // namespace
}  // namespace lift
