// Checkpoint -> lifted file -> variants, for every family: the whole offline path, and that what is
// served from the file does not depend on the batch.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>

#include "calibration/calibrator.h"
#include "calibration/eval/generate.h"
#include "server/model/checkpoint/safetensors.h"
#include "server/model/mlp.h"
#include "tests/model/runner.h"

namespace lift {
namespace {

using testing::TestModel;

const std::string kFamilies = LIFT_TEST_DATA "/families/";

CalibrationOptions SmallRun(const std::string& model, const std::string& out) {
  CalibrationOptions options;
  options.model_path = model;
  options.out_path = out;
  options.calib_paths = {LIFT_TEST_DATA "/text/node_modules_and_packages.txt"};
  options.variants = {{4.5, {}, {}}, {7.0, {}, {}}};
  options.quality = CalibrationQuality::kFast;
  options.data.samples = 8;
  options.data.context = 96;
  options.eval_tokens = 256;
  options.chain = {2, 2, 2};
  options.beam = 16;
  options.threads = 2;
  options.show_progress = false;
  return options;
}

class FamilyCalibration : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    path_ = (std::filesystem::temp_directory_path() / ("lift_family_" + std::to_string(getpid())))
                .string();
    CalibrationOptions options = SmallRun(kFamilies + GetParam(), path_);
    options.variants.push_back({{}, 1.0, {}});
    options.eval_tokens = 512;
    options.eval_context = 128;
    auto result = Calibrate(options);
    ASSERT_TRUE(result.ok()) << result.status();
    result_ = *std::move(result);
    auto lifted = Weights::Open(path_), source = Weights::Open(options.model_path);
    std::filesystem::remove(path_);  // stays mapped
    ASSERT_TRUE(lifted.ok()) << lifted.status();
    ASSERT_TRUE(source.ok()) << source.status();
    Transformer::Options model;
    model.block_tokens = 8;
    model.num_blocks = 96;
    lifted_ = std::make_unique<TestModel>(*lifted, 2, model);
    source_ = std::make_unique<TestModel>(*source, 1, model);
    ASSERT_TRUE(lifted_->status.ok()) << lifted_->status;
    for (int i = 0; i < 100; ++i) tokens_.push_back(4 + i * 37 % 320);
  }

  std::string path_;
  CalibrationResult result_;
  std::unique_ptr<TestModel> lifted_, source_;
  std::vector<int32_t> tokens_;
};

TEST_P(FamilyCalibration, VariantsAreOrderedAndFullIsTheSource) {
  ASSERT_EQ(result_.variants.size(), 3u);
  EXPECT_GT(result_.variants[0].kl, result_.variants[1].kl);
  EXPECT_GT(result_.variants[1].kl, 0);
  EXPECT_NEAR(result_.variants[2].perplexity, result_.reference.perplexity,
              1e-6 * result_.reference.perplexity);
  EXPECT_EQ(lifted_->Logits(tokens_, tokens_.size(), 2),
            source_->Logits(tokens_, tokens_.size(), 0));
}

TEST_P(FamilyCalibration, SameBitsAloneInChunksAndInAMixedBatch) {
  const auto all = std::span<const int32_t>(tokens_);
  const size_t lengths[] = {100, 7, 40};
  std::vector<std::vector<int32_t>> blocks;
  for (int s = 0; s < 3; ++s) blocks.push_back(lifted_->Blocks(s, 3));
  std::vector<SequenceChunk> chunks;
  std::vector<float> together, expected;
  for (size_t s = 0; s < 3; ++s) {
    chunks.push_back(
        {all.first(lengths[s]), 0, blocks[s], static_cast<int>(s), SequenceChunk::Logits::kAll});
  }
  lifted_->model->Step(chunks, together);
  for (size_t s = 0; s < 3; ++s) {
    const auto alone = lifted_->Logits(all.first(lengths[s]), lengths[s], static_cast<int>(s));
    EXPECT_EQ(alone, lifted_->Logits(all.first(lengths[s]), 1, static_cast<int>(s)));
    expected.insert(expected.end(), alone.begin(), alone.end());
  }
  EXPECT_EQ(together, expected);
}

TEST_P(FamilyCalibration, GeneratesTheSameOnOneThread) {
  Transformer::Options options;
  options.num_blocks = 32;
  TestModel one(lifted_->weights, 1, options);
  GenerateOptions generate;
  generate.prefill_variant = 2;
  generate.max_new_tokens = 32;
  const auto prompt = std::span<const int32_t>(tokens_).first(9);
  const auto a = GenerateTokens(*lifted_->model, prompt, generate),
             b = GenerateTokens(*one.model, prompt, generate);
  ASSERT_TRUE(a.ok()) << a.status();
  ASSERT_TRUE(b.ok()) << b.status();
  EXPECT_EQ(*a, *b);
  EXPECT_EQ(a->size(), 32u);
}

TEST_P(FamilyCalibration, OnlyTouchedExpertsAreRead) {
  const ModelConfig& config = lifted_->weights->config();
  const std::vector<int32_t> blocks = lifted_->Blocks(0, 1);
  for (int variant = 0; variant < 3; ++variant) {
    const bool full = variant == 2;
    uint64_t per_expert = 0, layer = 0;  // every expert of a layer has the same shape
    if (config.num_experts > 0) {
      const auto block = BindMlps(*lifted_->weights, layout::LayerNames(config, 0));
      ASSERT_TRUE(block.ok());
      layer = ExpertBytes(*block, variant, full);
      per_expert = layer / static_cast<uint64_t>(config.num_experts);
      EXPECT_GT(per_expert, 0u);
    }
    const SequenceChunk chunk{std::span<const int32_t>(tokens_).first(1), 0, blocks, variant,
                              SequenceChunk::Logits::kLast};
    std::vector<float> logits;
    const uint64_t read = lifted_->model->Step({&chunk, 1}, logits).weight_bytes_read;
    const uint64_t all = lifted_->weights->VariantBytes(variant);
    if (config.num_experts == 0) {
      EXPECT_EQ(read, all);
      continue;
    }
    EXPECT_LT(read, all);
    const auto left = static_cast<uint64_t>(config.num_experts - config.experts_per_token);
    if (full) {
      EXPECT_EQ(all - read, 2 * left * per_expert);  // two layers; source tensors are alike
    } else {
      EXPECT_GT(all - read, left * per_expert);  // prefixes differ between experts and layers
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tiny, FamilyCalibration,
                         ::testing::Values("qwen3-1", "mistral-1", "mixtral-1", "gpt_neox-1",
                                           "starcoder2-1", "gemma3-1", "mamba-1", "mamba2-1"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// A copy of mixtral-1 whose last three experts of layer 0 always score alike: of equals the lower
// ones are taken, so nobody ever chooses the last.
std::string WithAnUnreachableExpert() {
  const std::string from = kFamilies + "mixtral-1",
                    to = (std::filesystem::temp_directory_path() /
                          ("lift_unseen_" + std::to_string(getpid())))
                             .string();
  std::filesystem::remove_all(to);
  std::filesystem::copy(from, to);
  const auto file = SafetensorsFile::Open(from + "/model.safetensors");
  EXPECT_TRUE(file.ok()) << file.status();
  const SafetensorsTensor& router =
      (*file)->tensors().at("model.layers.0.block_sparse_moe.gate.weight");
  const auto whole = (*file)->file_bytes();
  std::vector<std::byte> bytes(whole.begin(), whole.end());
  const size_t row = router.bytes.size() / 5;
  std::byte* rows = bytes.data() + (router.bytes.data() - whole.data());
  for (const int expert : {3, 4}) std::copy_n(rows + 2 * row, row, rows + expert * row);
  std::ofstream(to + "/model.safetensors", std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
  return to;
}

// Planes of the first stage of each tensor, by name.
std::map<std::string, std::vector<std::byte>> FirstStages(const LiftedFile& file) {
  std::map<std::string, std::vector<std::byte>> stages;
  for (const LiftedTensor& tensor : file.tensors()) {
    const LiftStage& stage = tensor.stages.front();
    const auto planes = file.planes().subspan(stage.offset, stage.bytes);
    stages[tensor.name] = {planes.begin(), planes.end()};
  }
  return stages;
}

TEST(PrefixBits, LaterLayersAreFittedToWhatEarlierOnesGive) {
  const std::string out =
      (std::filesystem::temp_directory_path() / ("lift_prefix_" + std::to_string(getpid())))
          .string();
  std::map<std::string, std::vector<std::byte>> planes[2];
  for (const int bits : {0, 3}) {
    CalibrationOptions options = SmallRun(kFamilies + "mistral-1", out);
    options.prefix_bits = bits;
    const auto result = Calibrate(options);
    ASSERT_TRUE(result.ok()) << result.status();
    const auto file = LiftedFile::Open(out);
    ASSERT_TRUE(file.ok()) << file.status();
    planes[bits > 0] = FirstStages(**file);
  }
  std::filesystem::remove(out);
  for (const auto& [name, bits] : planes[0]) {
    const bool same = name.find("layers.0.") != std::string::npos || name == layout::kEmbedding;
    EXPECT_EQ(bits == planes[1].at(name), same) << name;
  }
}

TEST(UnseenExperts, AreLiftedWithoutDataAndNamed) {
  const std::string model = WithAnUnreachableExpert();
  const CalibrationOptions options = SmallRun(model, model + "/model.lift");
  const auto result = Calibrate(options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_NE(result->warning.find("lifted without data"), std::string::npos) << result->warning;
  EXPECT_NE(result->warning.find("model.layers.0.mlp.experts.4."), std::string::npos)
      << result->warning;
  const auto weights = Weights::Open(options.out_path), source = Weights::Open(options.model_path);
  std::filesystem::remove_all(options.model_path);  // stays mapped
  ASSERT_TRUE(weights.ok()) << weights.status();
  ASSERT_TRUE(source.ok()) << source.status();
  // Its planes are as close to its weights as those of the experts that were seen.
  ThreadPool pool(1);
  const auto backend = MakeCpuBackend(pool);
  const auto error = [&](int expert) {
    const std::string name =
        "model.layers.0.mlp.experts." + std::to_string(expert) + ".up_proj.weight";
    const Matrix& lifted = **(*weights)->GetMatrix(name);
    const Matrix& dense = **(*source)->GetMatrix(name);
    std::vector<float> got(static_cast<size_t>(lifted.cols)), want(got);
    double difference = 0, size = 0;
    for (int64_t row = 0; row < lifted.rows; ++row) {
      const auto [strip, at] = lifted.StripOf(row);
      backend->LiftedRow(*strip, at, 1, got.data());
      Dequantize(dense.dense->type, dense.dense->row(row), want);
      for (size_t i = 0; i < got.size(); ++i) {
        difference += std::pow(got[i] - want[i], 2);
        size += std::pow(want[i], 2);
      }
    }
    return difference / size;
  };
  EXPECT_LT(error(4), 0.3);  // one stage of two bits on rows this short
  EXPECT_LT(error(4), 2 * error(0) + 0.02);
}

}  // namespace
}  // namespace lift
