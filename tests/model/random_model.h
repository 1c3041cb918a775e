// A tiny lifted Llama with random planes, written and read back: three lifted variants and "full".
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "kernels/base/float16.h"
#include "server/model/model_layout.h"
#include "server/model/weights.h"
#include "tests/model/random_lifted.h"

namespace lift::testing {

inline ModelConfig TinyConfig(bool tied = true) {
  ModelConfig config;
  config.architecture = "llama";
  config.name = "tiny";
  config.vocab_size = 97;
  config.hidden_size = 48;  // rotation: 16 * 3
  config.intermediate_size = 80;
  config.num_layers = 2;
  config.num_heads = 4, config.num_kv_heads = 2, config.head_dim = 12;
  config.max_context = 256;
  config.rope.dimension = 12;
  config.tie_embeddings = tied;
  config.attention_bias = true;
  return config;
}

// The same sizes in another family's form.
inline ModelConfig FamilyConfig(const std::string& family) {
  ModelConfig config = TinyConfig(false);
  config.architecture = family;
  config.attention_bias = family == "qwen2" || family == "gpt_neox";
  if (family == "qwen3") config.qk_norm = true;
  if (family == "mistral") config.sliding_window = 7;
  if (family == "gemma3_text") {
    config.activation = Activation::kGeluTanh;
    config.qk_norm = config.output_norms = true;
    config.sliding_window = 7;
    config.full_layers = {1};
    config.local_rope_theta = 500;
    config.attention_scalar = 20;
    config.embedding_scale = 7;
  }
  if (family == "mixtral") {
    config.num_experts = 5;
    config.experts_per_token = 2;
  }
  if (family == "gpt_neox") {
    config.norm = NormKind::kLayer;
    config.activation = Activation::kGelu;
    config.gated_mlp = false;
    config.parallel_residual = true;
    config.output_bias = config.mlp_bias = true;
    config.num_kv_heads = config.num_heads;
    config.rope.dimension = 6;
  }
  return config;
}

// What a test may bend before the file is written.
inline constexpr int64_t kFirstStrip = 32;

struct RandomModelOptions {
  ModelConfig config = TinyConfig();
  bool full = true;
  int wide_stages = 1;         // of the finest lifted variant
  std::string leave_out;       // tensor or vector not written
  std::string wrong_shape;     // tensor written with 16 rows more
  std::string wrong_rotation;  // tensor rotated by a seed of its own
  bool strips = false;  // vocabulary matrices in two strips of rows, the first of kFirstStrip
};

class RandomModel {
 public:
  explicit RandomModel(const RandomModelOptions& options = {}) : options_(options) {
    random_.seed(11);
    two_ = writer_.AddCode(RandomCode("2+1p", 2, 1, 6, random_));
    one_ = writer_.AddCode(RandomCode("1+1p", 1, 1, 8, random_));
    writer_.SetModelConfig(options.config.ToJson());
    for (const auto& spec : layout::Matrices(options.config)) AddMatrix(spec);
    for (const auto& spec : layout::Vectors(options.config)) {
      std::vector<float> values;
      for (int64_t i = 0; i < spec.size; ++i)
        values.push_back(0.75f + static_cast<float>(random_() % 500) / 1000);
      if (spec.name != options.leave_out) writer_.AddVector(spec.name, values);
    }
    // All first stages, then all second ones, then the third of every other tensor.
    std::vector<PlaneUnit> order;
    for (int stage = 0; stage < 3; ++stage) {
      for (int t = 0; t < static_cast<int>(stages_.size()); ++t) {
        if (stage < stages_[static_cast<size_t>(t)]) order.push_back({t, stage});
      }
    }
    writer_.SetPlaneOrder(order);
  }

  absl::StatusOr<std::shared_ptr<const LiftedFile>> Write() {
    const std::string path =
        (std::filesystem::temp_directory_path() / ("lift_model_" + std::to_string(getpid())))
            .string();
    std::vector<LiftedVariant> variants(3);
    variants[0].name = "low", variants[0].plane_bytes = first_stage_bytes_;
    variants[1].name = "mid",
    variants[1].plane_bytes = first_stage_bytes_ + second_stage_bytes_ / 2;
    variants[2].name = "high", variants[2].plane_bytes = ~uint64_t{0} >> 2,
    variants[2].wide_stages = options_.wide_stages;
    if (options_.full) {
      variants.emplace_back();
      variants.back().name = "full", variants.back().full = true;
    }
    writer_.SetVariants(variants);
    LIFT_RETURN_IF_ERROR(writer_.Finish(path));
    auto file = LiftedFile::Open(path);  // stays mapped after the removal
    std::filesystem::remove(path);
    return file;
  }

  static std::shared_ptr<Weights> Load(const RandomModelOptions& options = {}) {
    auto file = RandomModel(options).Write();
    EXPECT_TRUE(file.ok()) << file.status();
    if (!file.ok()) return nullptr;
    auto weights = Weights::FromLiftedFile(*file);
    EXPECT_TRUE(weights.ok()) << weights.status();
    return weights.ok() ? *weights : nullptr;
  }

 private:
  void AddMatrix(const layout::MatrixSpec& spec) {
    if (spec.name == options_.leave_out) return;
    const int64_t rows = spec.rows + (spec.name == options_.wrong_shape ? 16 : 0);
    std::vector<uint16_t>& source = sources_[spec.name];
    for (int64_t i = 0; i < rows * spec.cols; ++i) {
      source.push_back(FloatToHalf(0.2f * (static_cast<float>(random_() % 1000) / 1000 - 0.5f)));
    }
    const DenseMatrixView view{DType::kF16, rows, spec.cols,
                               reinterpret_cast<const std::byte*>(source.data())};
    const uint64_t seed =
        spec.name == options_.wrong_rotation ? 99 : static_cast<uint64_t>(spec.cols);
    const int64_t first =
        options_.strips && spec.rows == options_.config.vocab_size ? kFirstStrip : rows;
    AddStrip(first == rows ? spec.name : StripName(spec.name, 0), seed, view, 0, first);
    if (first < rows) AddStrip(StripName(spec.name, 1), seed, view, first, rows - first);
  }
  void AddStrip(const std::string& name, uint64_t seed, DenseMatrixView view, int64_t begin,
                int64_t rows) {
    std::vector<std::pair<int, int>> codes = {{two_, 2}, {one_, 1}};
    if (stages_.size() % 2 == 0) codes.push_back({two_, 2});
    first_stage_bytes_ += Bytes(rows, view.cols, 2);
    second_stage_bytes_ += Bytes(rows, view.cols, 1);
    stages_.push_back(static_cast<int>(codes.size()));
    view.data = view.row(begin);
    view.rows = rows;
    AddRandomTensor(writer_, name, rows, view.cols, {true, seed}, codes, random_, 0.08f,
                    options_.full ? std::optional(view) : std::nullopt);
  }
  static uint64_t Bytes(int64_t rows, int64_t cols, int stored) {
    return static_cast<uint64_t>(PaddedRows(rows) / kTileRows *
                                 (PaddedColumns(cols) / kTileColumns) * stored * kTileBytes);
  }

  RandomModelOptions options_;
  std::mt19937 random_;
  LiftedFileWriter writer_;
  int two_ = 0, one_ = 0;
  std::vector<int> stages_;
  uint64_t first_stage_bytes_ = 0, second_stage_bytes_ = 0;
  std::map<std::string, std::vector<uint16_t>> sources_;
};

}  // namespace lift::testing
