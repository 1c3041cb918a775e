// The graph against Hugging Face transformers: tiny models of every supported kind, however their
// tokens are cut into steps.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/model/npy.h"
#include "tests/model/runner.h"

namespace lift {
namespace {

using nlohmann::json;
using testing::MaxDifference;
using testing::TestModel;

constexpr double kTolerance = 1e-4;  // logits of a few units; observed about 1e-5
const std::string kTiny = LIFT_TEST_DATA "/tiny/";

const json& Golden() {
  static const json golden = json::parse(std::ifstream(kTiny + "golden.json"));
  return golden;
}

std::vector<std::string> Models() {
  std::vector<std::string> names;
  for (const auto& [name, file] : Golden()["logits"].items()) names.push_back(name);
  return names;
}

class GoldenLogits : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    auto weights = Weights::Open(kTiny + GetParam());
    ASSERT_TRUE(weights.ok()) << weights.status();
    Transformer::Options options;
    options.block_tokens = 4;
    options.num_blocks = 32;
    model_ = std::make_unique<TestModel>(*weights, 2, options);
    ASSERT_TRUE(model_->status.ok()) << model_->status;
    sequences_ = Golden()["sequences"].get<std::vector<std::vector<int32_t>>>();
    const auto array = testing::ReadNpy(kTiny + Golden()["logits"][GetParam()].get<std::string>());
    const auto vocab = static_cast<size_t>(model_->model->vocab_size());
    auto at = array.values.begin();
    for (const auto& ids : sequences_) {
      expected_.emplace_back(at, at + static_cast<std::ptrdiff_t>(ids.size() * vocab));
      at += static_cast<std::ptrdiff_t>(ids.size() * vocab);
    }
    ASSERT_TRUE(at == array.values.end());
  }
  std::unique_ptr<TestModel> model_;
  std::vector<std::vector<int32_t>> sequences_;
  std::vector<std::vector<float>> expected_;
};

TEST_P(GoldenLogits, WholePromptAtOnce) {
  for (size_t s = 0; s < sequences_.size(); ++s) {
    const auto logits = model_->Logits(sequences_[s], sequences_[s].size(), 0);
    EXPECT_LE(MaxDifference(logits, expected_[s]), kTolerance);
  }
}

TEST_P(GoldenLogits, TokenByTokenAndInChunksAreTheSameBits) {
  const auto whole = model_->Logits(sequences_[0], sequences_[0].size(), 0);
  EXPECT_EQ(whole, model_->Logits(sequences_[0], 1, 0));
  EXPECT_EQ(whole, model_->Logits(sequences_[0], 5, 0));
}

TEST_P(GoldenLogits, BatchOfUnequalLengths) {
  const std::vector<int32_t> blocks0 = model_->Blocks(0, 2), blocks1 = model_->Blocks(1, 2);
  const SequenceChunk chunks[] = {{sequences_[0], 0, blocks0, 0, SequenceChunk::Logits::kAll},
                                  {sequences_[1], 0, blocks1, 0, SequenceChunk::Logits::kAll}};
  std::vector<float> logits, expected = expected_[0];
  expected.insert(expected.end(), expected_[1].begin(), expected_[1].end());
  model_->model->Step(chunks, logits);
  EXPECT_LE(MaxDifference(logits, expected), kTolerance);
}

TEST_P(GoldenLogits, OnlyTheRowsAskedFor) {
  const std::vector<int32_t> blocks0 = model_->Blocks(0, 2), blocks1 = model_->Blocks(1, 2);
  const SequenceChunk chunks[] = {{sequences_[0], 0, blocks0, 0, SequenceChunk::Logits::kNone},
                                  {sequences_[1], 0, blocks1, 0, SequenceChunk::Logits::kLast}};
  std::vector<float> logits;
  model_->model->Step(chunks, logits);
  const auto vocab = static_cast<std::ptrdiff_t>(model_->model->vocab_size());
  const std::vector<float> last(expected_[1].end() - vocab, expected_[1].end());
  EXPECT_LE(MaxDifference(logits, last), kTolerance);
}

INSTANTIATE_TEST_SUITE_P(Tiny, GoldenLogits, ::testing::ValuesIn(Models()), [](const auto& info) {
  std::string name = info.param;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); },
      '_');
  return name;
});

}  // namespace
}  // namespace lift
