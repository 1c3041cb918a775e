#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/base/mapped_file.h"
#include "server/model/checkpoint/checkpoint.h"
#include "server/model/checkpoint/gguf.h"
#include "server/model/checkpoint/tensor_spec.h"
#include "tests/model/gguf_builder.h"
#include "tests/model/safetensors_builder.h"

namespace lift {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Tiny(const std::string& name) { return std::string(LIFT_TEST_DATA "/tiny/") + name; }

std::vector<float> Row(const Checkpoint& checkpoint, const std::string& name, int64_t row) {
  const DenseMatrixView view = checkpoint.Find(name).value();
  std::vector<float> values(static_cast<size_t>(view.cols));
  Dequantize(view.type, view.row(row), values);
  return values;
}

std::string ReadAll(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// A scratch copy of a fixture that tests damage.
class CheckpointTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("lift_checkpoint_" + std::to_string(::getpid()));
    fs::remove_all(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  void Copy(const std::string& fixture) {
    fs::remove_all(folder_);
    fs::copy(Tiny(fixture), folder_);
  }
  void Write(const std::string& file, const std::string& text) {
    fs::create_directories(folder_);
    std::ofstream(folder_ / file, std::ios::binary) << text;
  }
  void Patch(const std::string& file, const json& patch) {
    json value = json::parse(ReadAll(folder_ / file));
    value.merge_patch(patch);
    Write(file, value.dump());
  }
  void ExpectRefused(absl::StatusCode code, const std::string& word) {
    const absl::Status status = Checkpoint::Open(folder_.string()).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(word));
  }
  fs::path folder_;
};

TEST_F(CheckpointTest, OpensEveryFixtureWithAllItsTensors) {
  for (const char* name : {"tiny-gqa", "tiny-bias", "tiny-tied", "tiny-qwen2", "tiny-gqa-f16.gguf",
                           "tiny-tied-q8_0.gguf", "tiny-tied-mixed.gguf", "tiny-kquant.gguf",
                           "tiny-qwen2-bf16.gguf"}) {
    const auto checkpoint = Checkpoint::Open(Tiny(name));
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_TRUE(LooksLikeCheckpoint(Tiny(name)));
    EXPECT_TRUE((*checkpoint)->config().Validate().ok());
    EXPECT_FALSE((*checkpoint)->config().name.empty());
    EXPECT_EQ((*checkpoint)->config().vocab_size, 331);
    int64_t bytes = 0;
    for (const TensorSpec& spec : ModelTensors((*checkpoint)->config())) {
      const auto view = (*checkpoint)->Find(spec.name);
      ASSERT_TRUE(view.has_value()) << name << " " << spec.name;
      EXPECT_EQ(view->cols, spec.shape.back());
      bytes += static_cast<int64_t>(view->bytes());
    }
    EXPECT_EQ((*checkpoint)->tensor_bytes(), bytes);
    EXPECT_EQ((*checkpoint)->names().size(), ModelTensors((*checkpoint)->config()).size());
    EXPECT_NE((*checkpoint)->gguf() == nullptr, !(*checkpoint)->folder().has_value());
    EXPECT_FALSE((*checkpoint)->Find("no.such.tensor").has_value());
  }
}

TEST_F(CheckpointTest, ConfigsOfTheFixtures) {
  const auto gqa = Checkpoint::Open(Tiny("tiny-gqa")).value();
  EXPECT_EQ(gqa->config().name, "tiny-gqa");
  EXPECT_EQ(gqa->config().num_kv_heads, 2);
  EXPECT_EQ(gqa->config().head_dim, 10);
  EXPECT_FALSE(gqa->config().tie_embeddings);
  EXPECT_THAT(gqa->config().eos_token_ids, ElementsAre(2, 0));
  const auto bias = Checkpoint::Open(Tiny("tiny-bias/")).value();
  EXPECT_EQ(bias->config().name, "tiny-bias");
  EXPECT_TRUE(bias->config().attention_bias && bias->config().output_bias &&
              bias->config().mlp_bias);
  EXPECT_EQ(bias->config().rope.scaling, RopeConfig::Scaling::kLlama3);
  EXPECT_EQ(bias->Find("model.layers.1.mlp.down_proj.bias")->type, DType::kBF16);
  const auto tied = Checkpoint::Open(Tiny("tiny-tied")).value();
  EXPECT_EQ(tied->config().rope.scaling, RopeConfig::Scaling::kLinear);
  EXPECT_FALSE(tied->Find("lm_head.weight").has_value());
  const auto tied_gguf = Checkpoint::Open(Tiny("tiny-tied-q8_0.gguf")).value();
  EXPECT_EQ(tied_gguf->config().rope.scaling, RopeConfig::Scaling::kLinear);
  EXPECT_EQ(tied_gguf->config().rope.factor, 2.0);
  EXPECT_TRUE(tied_gguf->config().rope.interleaved && tied_gguf->config().tie_embeddings);
  EXPECT_THAT(tied_gguf->config().eos_token_ids,
              ElementsAre(2, 0));  // <|im_end|>, then <|endoftext|> by its text
  EXPECT_EQ(tied_gguf->config().bos_token_id, 1);
  EXPECT_FALSE(tied_gguf->config().add_bos);
  const auto k_quant = Checkpoint::Open(Tiny("tiny-kquant.gguf")).value();
  EXPECT_EQ(k_quant->config().rope.frequency_factors.size(), 32u);
  EXPECT_EQ(k_quant->config().rope.frequency_factors.back(), 8.0f);
  const auto qwen = Checkpoint::Open(Tiny("tiny-qwen2-bf16.gguf")).value();
  EXPECT_TRUE(qwen->config().attention_bias && !qwen->config().output_bias &&
              !qwen->config().rope.interleaved);
}

// The two files hold the same values; GGUF reorders q and k rows of each head from halves to
// neighbours.
TEST_F(CheckpointTest, FolderAndGgufHoldTheSameWeights) {
  const auto folder = Checkpoint::Open(Tiny("tiny-gqa")).value();
  const auto gguf = Checkpoint::Open(Tiny("tiny-gqa-f16.gguf")).value();
  const int64_t dim = folder->config().head_dim;
  for (const std::string& name : folder->names()) {
    const DenseMatrixView view = folder->Find(name).value();
    const bool reordered =
        name.find("q_proj") != std::string::npos || name.find("k_proj") != std::string::npos;
    for (int64_t row = 0; row < view.rows; ++row) {
      const int64_t in_head = row % dim;
      const int64_t stored =
          reordered ? row - in_head + 2 * (in_head % (dim / 2)) + in_head / (dim / 2) : row;
      ASSERT_EQ(Row(*folder, name, row), Row(*gguf, name, stored)) << name << " row " << row;
    }
  }
}

TEST_F(CheckpointTest, DigestCoversTheWeightFilesInOrder) {
  const std::string single = Checkpoint::Open(Tiny("tiny-gqa")).value()->source_sha256();
  EXPECT_EQ(single, Sha256Hex(AsBytes(ReadAll(Tiny("tiny-gqa/model.safetensors")))));
  std::string shards;
  for (int i = 1; i <= 3; ++i)
    shards += ReadAll(Tiny("tiny-bias/model-0000" + std::to_string(i) + "-of-00003.safetensors"));
  EXPECT_EQ(Checkpoint::Open(Tiny("tiny-bias")).value()->source_sha256(),
            Sha256Hex(AsBytes(shards)));
  const std::string gguf = Tiny("tiny-kquant.gguf");
  EXPECT_EQ(Checkpoint::Open(gguf).value()->source_sha256(), Sha256Hex(AsBytes(ReadAll(gguf))));
}

TEST_F(CheckpointTest, RefusesWhatIsNoCheckpoint) {
  EXPECT_EQ(Checkpoint::Open("/no/such/model").status().code(), absl::StatusCode::kNotFound);
  fs::create_directories(folder_);
  ExpectRefused(absl::StatusCode::kInvalidArgument, "config.json");
  EXPECT_FALSE(LooksLikeCheckpoint(folder_.string()));
  Write("x.bin", "something else");
  EXPECT_FALSE(LooksLikeCheckpoint((folder_ / "x.bin").string()));
  EXPECT_THAT(std::string(Checkpoint::Open((folder_ / "x.bin").string()).status().message()),
              HasSubstr("not a GGUF file"));
}

// A seed that is refused at once would leave the fuzz targets with nothing to do.
TEST_F(CheckpointTest, FuzzSeedsAreWholeModels) {
  for (const char* seed : {"llama.gguf", "qwen2.gguf"}) {
    const auto checkpoint =
        Checkpoint::Open(std::string(LIFT_TEST_DATA "/../fuzz/corpus/gguf/") + seed);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  }
}

TEST_F(CheckpointTest, OpensARealModel) {
  const char* path = std::getenv("LIFT_TEST_MODEL");
  if (path == nullptr) GTEST_SKIP() << "LIFT_TEST_MODEL does not name a model file";
  const auto checkpoint = Checkpoint::Open(path);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->config().num_layers, 30);
  EXPECT_EQ((*checkpoint)->config().rope.theta, 100000.0);
  EXPECT_EQ((*checkpoint)->Find("model.embed_tokens.weight")->type, DType::kQ8_0);
  EXPECT_TRUE((*checkpoint)->config().tie_embeddings);
}

TEST_F(CheckpointTest, RefusesMissingWeights) {
  Copy("tiny-gqa");
  fs::remove(folder_ / "model.safetensors");
  ExpectRefused(absl::StatusCode::kNotFound, "model.safetensors");
  Write("pytorch_model.bin", "x");
  ExpectRefused(absl::StatusCode::kUnimplemented, "pytorch_model.bin");
  Copy("tiny-bias");
  fs::remove(folder_ / "model-00002-of-00003.safetensors");
  ExpectRefused(absl::StatusCode::kNotFound, "model-00002-of-00003.safetensors");
  Copy("tiny-bias");
  Patch("model.safetensors.index.json", {{"weight_map", {{"model.norm.weight", nullptr}}}});
  ExpectRefused(absl::StatusCode::kInvalidArgument, "model.norm.weight of shape [40] is missing");
  Copy("tiny-bias");
  Patch("model.safetensors.index.json",
        {{"weight_map", {{"model.extra", "model-00001-of-00003.safetensors"}}}});
  ExpectRefused(absl::StatusCode::kInvalidArgument, "model.extra");
  for (const char* name : {"../x.safetensors", "/etc/x.safetensors", "model.bin"}) {
    Copy("tiny-bias");
    Patch("model.safetensors.index.json", {{"weight_map", {{"model.norm.weight", name}}}});
    ExpectRefused(absl::StatusCode::kInvalidArgument, "in the same folder");
  }
}

TEST_F(CheckpointTest, RefusesConfigsThatDoNotFitTheWeights) {
  const auto expect = [this](const std::string& fixture, const json& patch, absl::StatusCode code,
                             const std::string& word) {
    Copy(fixture);
    Patch("config.json", patch);
    ExpectRefused(code, word);
  };
  constexpr auto kWrong = absl::StatusCode::kInvalidArgument;
  expect("tiny-gqa", {{"vocab_size", 332}}, kWrong,
         "embed_tokens.weight has shape [331, 60], but the config asks for [332, 60]");
  expect("tiny-gqa", {{"num_key_value_heads", 3}}, kWrong, "k_proj.weight has shape [20, 60]");
  expect("tiny-gqa", {{"num_hidden_layers", 3}}, kWrong,
         "model.layers.2.self_attn.q_proj.weight of shape [60, 60] is missing");
  expect("tiny-gqa", {{"num_hidden_layers", 1}}, absl::StatusCode::kUnimplemented,
         "model.layers.1.");
  expect("tiny-tied", {{"tie_word_embeddings", false}}, kWrong,
         "lm_head.weight of shape [331, 32] is missing");
  expect("tiny-bias", {{"mlp_bias", false}}, absl::StatusCode::kUnimplemented,
         ".bias\" is not part of");
  expect("tiny-gqa", {{"attention_bias", true}}, kWrong, "q_proj.bias of shape [60] is missing");
}

TEST_F(CheckpointTest, TiedHeadStoredTwiceIsIgnored) {
  Copy("tiny-gqa");
  Patch("config.json", {{"tie_word_embeddings", true}});
  const auto checkpoint = Checkpoint::Open(folder_.string());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_FALSE((*checkpoint)->Find("lm_head.weight").has_value());
}

TEST_F(CheckpointTest, ExtraFrequenciesAreTolerated) {
  Copy("tiny-bias");
  Write(
      "extra.safetensors",
      Safetensors(
          R"({"model.layers.0.self_attn.rotary_emb.inv_freq":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
          R"("model.norm.weight":{"dtype":"I32","shape":[40],"data_offsets":[8,168]}})",
          std::string(168, 'x')));
  const std::string inv_freq = "model.layers.0.self_attn.rotary_emb.inv_freq";
  Patch("model.safetensors.index.json", {{"weight_map", {{inv_freq, "extra.safetensors"}}}});
  const auto checkpoint = Checkpoint::Open(folder_.string());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_FALSE((*checkpoint)->Find(inv_freq).has_value());
  Patch("model.safetensors.index.json",
        {{"weight_map", {{"model.norm.weight", "extra.safetensors"}}}});
  ExpectRefused(absl::StatusCode::kUnimplemented, "element type I32");
}

// ---- GGUF: metadata that the config reader refuses ----

GgufBuilder LlamaHeader(const std::string& architecture = "llama") {
  GgufBuilder builder;
  builder.Text("general.architecture", architecture);
  for (const auto& [key, value] : std::map<std::string, uint32_t>{{"block_count", 1},
                                                                  {"context_length", 32},
                                                                  {"embedding_length", 8},
                                                                  {"feed_forward_length", 8},
                                                                  {"attention.head_count", 2},
                                                                  {"vocab_size", 4}}) {
    builder.U32(architecture + "." + key, value);
  }
  return builder.F32(architecture + ".attention.layer_norm_rms_epsilon", 1e-5f);
}

class GgufCheckpointTest : public CheckpointTest {
 protected:
  absl::Status Open(const GgufBuilder& builder) {
    Write("x.gguf", builder.Build(std::string(64, '\0')));
    return Checkpoint::Open((folder_ / "x.gguf").string()).status();
  }
  void Expect(const GgufBuilder& builder, absl::StatusCode code, const std::string& word) {
    const absl::Status status = Open(builder);
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(word));
  }
};

TEST_F(GgufCheckpointTest, NamesTheMissingTensorOfAGoodHeader) {
  Expect(LlamaHeader(), absl::StatusCode::kInvalidArgument,
         "model.embed_tokens.weight of shape [4, 8] is missing");
}

TEST_F(GgufCheckpointTest, RefusesByName) {
  constexpr auto kUnsupported = absl::StatusCode::kUnimplemented;
  Expect(LlamaHeader("gemma"), kUnsupported, "general.architecture \"gemma\"");
  Expect(GgufBuilder(), kUnsupported, "general.architecture");
  Expect(LlamaHeader().Text("general.type", "adapter"), kUnsupported, "general.type \"adapter\"");
  Expect(LlamaHeader().U32("split.count", 2), kUnsupported, "split");
  Expect(LlamaHeader().U32("llama.expert_count", 8), absl::StatusCode::kInvalidArgument,
         "experts_per_token");
  Expect(LlamaHeader("qwen2").U32("qwen2.expert_count", 8), kUnsupported, "mixture of experts");
  Expect(LlamaHeader().U32("llama.attention.sliding_window", 64), kUnsupported, "sliding_window");
  Expect(LlamaHeader().Text("llama.rope.scaling.type", "yarn"), kUnsupported,
         "rope.scaling.type = yarn");
  Expect(LlamaHeader().U32("llama.attention.value_length", 8), kUnsupported, "value_length");
  Expect(LlamaHeader().U32("llama.rope.dimension_count", 2), kUnsupported, "rope.dimension");
  const std::string two_and_one("\x02\x00\x01\x00", 4);
  Expect(LlamaHeader().Array("llama.attention.head_count_kv", GgufType::kInt16, 2, two_and_one),
         kUnsupported, "head_count_kv");
}

TEST_F(GgufCheckpointTest, GemmaSaysWhatItCannotDo) {
  constexpr auto kUnsupported = absl::StatusCode::kUnimplemented;
  constexpr auto kWrong = absl::StatusCode::kInvalidArgument;
  const auto gemma = [] { return LlamaHeader("gemma3").U32("gemma3.attention.sliding_window", 4); };
  Expect(gemma(), kWrong, "model.embed_tokens.weight of shape [4, 8] is missing");
  Expect(gemma().F32("gemma3.attn_logit_softcapping", 50), kUnsupported, "attn_logit_softcapping");
  Expect(gemma().F32("gemma3.final_logit_softcapping", 30), kUnsupported,
         "final_logit_softcapping");
  Expect(gemma().Value("gemma3.attention.causal", GgufType::kBool, uint8_t{0}), kUnsupported,
         "attention.causal");
  Expect(gemma().U32("gemma3.attention.sliding_window_pattern", 0), kWrong,
         "sliding_window_pattern");
  Expect(LlamaHeader("gemma2"), kUnsupported, "general.architecture \"gemma2\"");
}

TEST_F(GgufCheckpointTest, RefusesWrongMetadata) {
  constexpr auto kWrong = absl::StatusCode::kInvalidArgument;
  GgufBuilder bare;
  bare.Text("general.architecture", "llama");
  Expect(bare, kWrong, "llama.embedding_length\" is missing");
  Expect(LlamaHeader().Strings("tokenizer.ggml.tokens", {"a", "b", "c", "d", "e"}), kWrong,
         "has 5 tokens, but vocab_size is 4");
  Expect(LlamaHeader().U32("tokenizer.ggml.eos_token_id", 4), kWrong, "eos_token_ids");
  Expect(LlamaHeader().Text("tokenizer.ggml.eos_token_id", "x"), kWrong,
         "tokenizer.ggml.eos_token_id");
  Expect(LlamaHeader().U32("llama.attention.head_count_kv", 3), kWrong, "num_kv_heads");
  Expect(LlamaHeader().Array("llama.attention.head_count_kv", GgufType::kUint8, 0, ""),
         absl::StatusCode::kUnimplemented, "head_count_kv");
  Expect(LlamaHeader().Tensor("rope_freqs.weight", {2, 1}, 0, 0), kWrong, "rope_freqs.weight");
}

}  // namespace
}  // namespace lift
