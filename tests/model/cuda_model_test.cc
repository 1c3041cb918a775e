// Whole models on the CUDA backend beside the CPU's.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/base/thread_pool.h"
#include "kernels/cpu/cpu_backend.h"
#include "server/model/transformer.h"
#include "tests/kernels/cuda_device.h"
#include "tests/model/random_model.h"

namespace lift {
namespace {

using testing::FamilyConfig;
using testing::RandomModel;
using testing::RandomModelOptions;

constexpr int64_t kBlocks = 24;

std::vector<int32_t> Tokens(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % 97);
  return tokens;
}

class CudaModel : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    LIFT_SKIP_WITHOUT_CUDA(cuda_);
    RandomModelOptions options;
    options.config = FamilyConfig(GetParam());
    options.wide_stages = 3;
    weights_ = RandomModel::Load(options);
    ASSERT_NE(weights_, nullptr);
    for (Backend* backend : {cpu_.get(), cuda_.get()}) {
      Transformer::Options of_model;
      of_model.block_tokens = 4;
      of_model.num_blocks = kBlocks;
      auto model = Transformer::Create(weights_, *backend, of_model);
      ASSERT_TRUE(model.ok()) << model.status();
      models_.push_back(*std::move(model));
    }
  }

  // Relative distance of the devices' logits for one step.
  double Distance(std::span<const SequenceChunk> chunks) {
    std::vector<float> logits[2];
    for (int i = 0; i < 2; ++i) {
      const StepStats stats = models_[static_cast<size_t>(i)]->Step(chunks, logits[i]);
      if (i == 1) {
        EXPECT_EQ(stats.weight_bytes_read, read_);
      }
      read_ = stats.weight_bytes_read;
    }
    EXPECT_EQ(logits[0].size(), logits[1].size());
    double power = 0, error = 0;
    for (size_t i = 0; i < logits[0].size(); ++i) {
      const double a = logits[0][i], b = logits[1][i];
      power += a * a;
      error += (a - b) * (a - b);
    }
    return std::sqrt(error / power);
  }

  ThreadPool pool_{1};
  std::unique_ptr<Backend> cpu_ = MakeCpuBackend(pool_), cuda_;
  std::shared_ptr<const Weights> weights_;
  std::vector<std::unique_ptr<Transformer>> models_;  // on the CPU, on the GPU
  uint64_t read_ = 0;
};

// Sign products are integers; what differs is the rounding of norms, softmax and sums, which may
// move an activation to the next 8-bit step.
constexpr double kClose = 2e-2, kWideClose = 2e-4;

TEST_P(CudaModel, LogitsAreTheCpusAtEveryVariant) {
  const std::vector<int32_t> tokens = Tokens(12, 3);
  std::vector<int32_t> blocks(kBlocks);
  std::iota(blocks.begin(), blocks.end(), 0);
  for (int variant = 0; variant < 4; ++variant) {
    const SequenceChunk whole{tokens, 0, blocks, variant, SequenceChunk::Logits::kAll};
    EXPECT_LE(Distance({&whole, 1}), variant >= 2 ? kWideClose : kClose) << "variant " << variant;
    const std::vector<int32_t> next = Tokens(1, 7);
    const SequenceChunk step{next, 12, blocks, variant, SequenceChunk::Logits::kLast};
    EXPECT_LE(Distance({&step, 1}), variant >= 2 ? kWideClose : kClose) << "variant " << variant;
  }
}

TEST_P(CudaModel, LogitsAreTheCpusInAMixedBatch) {
  const std::vector<int32_t> tokens[] = {Tokens(5, 1), Tokens(1, 2), Tokens(9, 4), Tokens(2, 5)};
  std::vector<std::vector<int32_t>> blocks(4);
  for (int32_t b = 0; b < kBlocks; ++b) blocks[static_cast<size_t>(b % 4)].push_back(b);
  for (const bool full : {false, true}) {
    std::vector<SequenceChunk> chunks;
    for (size_t s = 0; s < 4; ++s) {
      const int variant = full && s == 2 ? 3 : static_cast<int>(s % 3);
      chunks.push_back({tokens[s], 0, blocks[s], variant,
                        s == 1 ? SequenceChunk::Logits::kAll : SequenceChunk::Logits::kLast});
    }
    EXPECT_LE(Distance(chunks), kClose);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, CudaModel,
                         ::testing::Values("llama", "qwen2", "qwen3", "mistral", "mixtral",
                                           "gpt_neox", "gemma3_text"),
                         [](const auto& info) { return info.param; });

// A model's own tables leave the device with it: the next one's may lie at the same addresses.
TEST(CudaModels, FollowEachOtherOnOneDevice) {
  std::unique_ptr<Backend> shared;
  LIFT_SKIP_WITHOUT_CUDA(shared);
  const std::vector<int32_t> tokens = {1, 5, 9, 2, 6}, blocks = {0};
  const SequenceChunk chunk{tokens, 0, blocks, 0, SequenceChunk::Logits::kAll};
  for (const char* name : {"mamba-1", "mamba-2", "mamba-3", "mamba-1"}) {
    const auto weights = Weights::Open(std::string(LIFT_TEST_DATA "/families/") + name);
    ASSERT_TRUE(weights.ok()) << weights.status();
    auto fresh = MakeCudaBackend();
    ASSERT_TRUE(fresh.ok());
    std::vector<float> logits[2];
    for (int i = 0; i < 2; ++i) {
      Backend& backend = i == 0 ? *shared : **fresh;
      auto model = Transformer::Create(*weights, backend, {.num_blocks = 1});
      ASSERT_TRUE(model.ok()) << model.status();
      (*model)->Step({&chunk, 1}, logits[i]);
    }
    EXPECT_EQ(logits[0], logits[1]) << name;
  }
}

}  // namespace
}  // namespace lift
