#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "server/model/checkpoint/hf_config.h"
#include "server/model/model_config.h"

namespace lift {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

json Llama() {
  return json::parse(
      R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","vocab_size":128256,
    "hidden_size":2048,"intermediate_size":8192,"num_hidden_layers":16,"num_attention_heads":32,"num_key_value_heads":8,
    "head_dim":64,"hidden_act":"silu","max_position_embeddings":131072,"rms_norm_eps":1e-05,"rope_theta":500000.0,
    "rope_scaling":{"factor":32.0,"high_freq_factor":4.0,"low_freq_factor":1.0,"original_max_position_embeddings":8192,
    "rope_type":"llama3"},"tie_word_embeddings":true,"attention_bias":false,"mlp_bias":false,"bos_token_id":128000,
    "eos_token_id":[128001,128008,128009]})");
}

absl::StatusOr<ModelConfig> Read(const json& config, HuggingFaceTexts texts = {}) {
  texts.source = "folder";
  texts.config = config.dump();
  return ConfigFromHuggingFace(texts);
}

// Changes one field of a good config (null removes it) and expects a refusal that names it.
void ExpectRefused(const json& patch, absl::StatusCode code, const std::string& word) {
  json config = Llama();
  config.merge_patch(patch);
  const absl::Status status = Read(config).status();
  EXPECT_EQ(status.code(), code) << patch << " " << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(word));
}
void ExpectUnsupported(const json& patch, const std::string& word) {
  ExpectRefused(patch, absl::StatusCode::kUnimplemented, word);
}
void ExpectWrong(const json& patch, const std::string& word) {
  ExpectRefused(patch, absl::StatusCode::kInvalidArgument, word);
}

TEST(HuggingFaceConfigTest, ReadsLlama3) {
  const auto config = Read(Llama());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->architecture, "llama");
  EXPECT_EQ(config->vocab_size, 128256);
  EXPECT_EQ(config->num_layers, 16);
  EXPECT_EQ(config->num_kv_heads, 8);
  EXPECT_EQ(config->head_dim, 64);
  EXPECT_EQ(config->max_context, 131072);
  EXPECT_EQ(config->rms_norm_eps, 1e-5f);
  EXPECT_TRUE(config->tie_embeddings);
  EXPECT_EQ(config->rope.theta, 500000.0);
  EXPECT_EQ(config->rope.scaling, RopeConfig::Scaling::kLlama3);
  EXPECT_EQ(config->rope.factor, 32.0);
  EXPECT_EQ(config->rope.original_context, 8192);
  EXPECT_EQ(config->rope.dimension, 64);
  EXPECT_FALSE(config->rope.interleaved);
  EXPECT_THAT(config->eos_token_ids, ElementsAre(128001, 128008, 128009));
  EXPECT_EQ(config->bos_token_id, 128000);
}

TEST(HuggingFaceConfigTest, DefaultsOfOldConfigs) {
  json config = Llama();
  for (const char* key :
       {"num_key_value_heads", "head_dim", "rope_scaling", "rope_theta", "tie_word_embeddings",
        "rms_norm_eps", "attention_bias", "mlp_bias", "hidden_act", "architectures"}) {
    config.erase(key);
  }
  const auto read = Read(config);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->num_kv_heads, 32);
  EXPECT_EQ(read->head_dim, 64);
  EXPECT_EQ(read->rope.theta, 10000.0);
  EXPECT_EQ(read->rope.scaling, RopeConfig::Scaling::kNone);
  EXPECT_FALSE(read->tie_embeddings);
  EXPECT_EQ(read->rms_norm_eps, 1e-6f);
}

TEST(HuggingFaceConfigTest, RopeInAllItsForms) {
  const auto rope = [](const json& patch) {
    json config = Llama();
    config.merge_patch({{"rope_scaling", nullptr}, {"rope_theta", nullptr}});
    config.merge_patch(patch);
    return Read(config).value().rope;
  };
  const RopeConfig old_linear =
      rope({{"rope_theta", 1000}, {"rope_scaling", {{"type", "linear"}, {"factor", 2.5}}}});
  EXPECT_EQ(old_linear.scaling, RopeConfig::Scaling::kLinear);
  EXPECT_EQ(old_linear.factor, 2.5);
  EXPECT_EQ(old_linear.theta, 1000.0);
  const RopeConfig fresh =
      rope({{"rope_parameters", {{"rope_type", "linear"}, {"factor", 4}, {"rope_theta", 700.0}}}});
  EXPECT_EQ(fresh.scaling, RopeConfig::Scaling::kLinear);
  EXPECT_EQ(fresh.theta, 700.0);
  const RopeConfig plain =
      rope({{"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 5000.0}}}});
  EXPECT_EQ(plain.scaling, RopeConfig::Scaling::kNone);
  EXPECT_EQ(plain.theta, 5000.0);
}

TEST(HuggingFaceConfigTest, Qwen2HasBiasesOnQueryKeyValueOnly) {
  json config = Llama();
  config.merge_patch({{"model_type", "qwen2"},
                      {"architectures", {"Qwen2ForCausalLM"}},
                      {"sliding_window", 4096},
                      {"use_sliding_window", false},
                      {"rope_scaling", nullptr}});
  const auto read = Read(config);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE(read->attention_bias);
  EXPECT_FALSE(read->output_bias);
  EXPECT_FALSE(read->mlp_bias);
  config["use_sliding_window"] = true;
  EXPECT_EQ(Read(config).status().code(), absl::StatusCode::kUnimplemented);
}

TEST(HuggingFaceConfigTest, FamiliesReadWhatMakesThemDiffer) {
  json mistral = Llama();
  mistral.merge_patch({{"model_type", "mistral"},
                       {"architectures", {"MistralForCausalLM"}},
                       {"sliding_window", 4096},
                       {"head_dim", 80},
                       {"rope_scaling", nullptr}});
  auto read = Read(mistral);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->sliding_window, 4096);
  EXPECT_EQ(read->head_dim, 80);
  mistral["layer_types"] = {"sliding_attention", "full_attention"};
  EXPECT_EQ(Read(mistral).status().code(), absl::StatusCode::kUnimplemented);

  json neox = Llama();
  neox.merge_patch({{"model_type", "gpt_neox"},
                    {"architectures", {"GPTNeoXForCausalLM"}},
                    {"hidden_act", "gelu"},
                    {"attention_bias", nullptr},
                    {"num_key_value_heads", nullptr},
                    {"rope_scaling", nullptr},
                    {"rotary_emb_base", 2000},
                    {"rotary_pct", 0.25},
                    {"layer_norm_eps", 1e-6}});
  read = Read(neox);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->norm, NormKind::kLayer);
  EXPECT_EQ(read->activation, Activation::kGelu);
  EXPECT_TRUE(read->parallel_residual && read->mlp_bias && read->attention_bias);
  EXPECT_FALSE(read->gated_mlp);
  EXPECT_EQ(read->rope.dimension, 16);
  EXPECT_EQ(read->rope.theta, 2000);
  EXPECT_FLOAT_EQ(read->rms_norm_eps, 1e-6f);
  const auto again = ModelConfig::FromJson(read->ToJson());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->ToJson(), read->ToJson());
  EXPECT_TRUE(again->parallel_residual);
  neox["hidden_act"] = "relu";
  EXPECT_EQ(Read(neox).status().code(), absl::StatusCode::kUnimplemented);

  json mixtral = Llama();
  mixtral.merge_patch({{"model_type", "mixtral"},
                       {"architectures", {"MixtralForCausalLM"}},
                       {"rope_scaling", nullptr},
                       {"num_local_experts", 8},
                       {"num_experts_per_tok", 9}});
  EXPECT_EQ(Read(mixtral).status().code(), absl::StatusCode::kInvalidArgument);
  mixtral["num_experts_per_tok"] = 2;
  read = Read(mixtral);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->num_experts, 8);
  EXPECT_EQ(read->experts_per_token, 2);
}

json Mamba2() {
  return json::parse(
      R"({"architectures":["Mamba2ForCausalLM"],"model_type":"mamba2","vocab_size":100,
    "hidden_size":64,"num_hidden_layers":3,"expand":2,"state_size":32,"conv_kernel":4,"num_heads":8,"head_dim":16,
    "n_groups":2,"use_conv_bias":true,"use_bias":false,"hidden_act":"silu","layer_norm_epsilon":1e-05,
    "time_step_limit":[0.0,1e308],"tie_word_embeddings":false})");
}

TEST(HuggingFaceConfigTest, MambaReadsItsStateSpace) {
  const auto config = Read(Mamba2());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->recurrent());
  EXPECT_EQ(config->ssm.inner, 128);
  EXPECT_EQ(config->ssm.conv_channels(), 128 + 2 * 2 * 32);
  EXPECT_EQ(config->ssm.dt_max, std::numeric_limits<float>::max());
  const auto again = ModelConfig::FromJson(config->ToJson());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->ToJson(), config->ToJson());
  // As transformers 4 writes an infinite limit, which is no JSON.
  HuggingFaceTexts texts;
  texts.source = "folder";
  texts.config = Mamba2().dump();
  texts.config.replace(texts.config.find("1e+308"), 6, "Infinity");
  const auto infinite = ConfigFromHuggingFace(texts);
  ASSERT_TRUE(infinite.ok()) << infinite.status();
  EXPECT_EQ(infinite->ToJson(), config->ToJson());
}

TEST(HuggingFaceConfigTest, MambaOfShapesThatDoNotFitIsRefused) {
  json config = Mamba2();
  config["num_heads"] = 7;
  EXPECT_THAT(std::string(Read(config).status().message()), HasSubstr("7 heads of 16"));
  config = Mamba2();
  config["n_groups"] = 3;
  EXPECT_THAT(std::string(Read(config).status().message()), HasSubstr("3 groups"));
  config = Mamba2();
  config["conv_kernel"] = 0;
  EXPECT_THAT(std::string(Read(config).status().message()), HasSubstr("ssm.conv_kernel"));
  config = Mamba2();
  config["time_step_limit"] = "all";
  EXPECT_THAT(std::string(Read(config).status().message()), HasSubstr("time_step_limit"));
  // A recurrent config under an architecture with attention, and the other way round.
  ModelConfig mixed = *Read(Mamba2());
  mixed.architecture = "llama";
  EXPECT_THAT(std::string(mixed.Validate().message()), HasSubstr("has no ssm"));
  ModelConfig llama = *Read(Llama());
  llama.architecture = "mamba";
  EXPECT_THAT(std::string(llama.Validate().message()), HasSubstr("needs ssm"));
}

// As published: the pattern and the local rotation are understood.
json Gemma3() {
  return json::parse(
      R"({"architectures":["Gemma3ForCausalLM"],"model_type":"gemma3_text","vocab_size":262144,
    "hidden_size":1152,"intermediate_size":6912,"num_hidden_layers":26,"num_attention_heads":4,"num_key_value_heads":1,
    "head_dim":256,"hidden_activation":"gelu_pytorch_tanh","max_position_embeddings":32768,"rms_norm_eps":1e-06,
    "query_pre_attn_scalar":168,"sliding_window":512,"rope_scaling":{"factor":8.0,"rope_type":"linear"},
    "attn_logit_softcapping":null,"final_logit_softcapping":null,"bos_token_id":2,"eos_token_id":[1,106]})");
}

TEST(HuggingFaceConfigTest, GemmaHasTwoKindsOfLayers) {
  const auto config = Read(Gemma3());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->tie_embeddings && config->qk_norm && config->output_norms);
  EXPECT_EQ(config->activation, Activation::kGeluTanh);
  EXPECT_THAT(config->full_layers, ElementsAre(5, 11, 17, 23));
  EXPECT_EQ(config->window(4), 512);
  EXPECT_EQ(config->window(5), 0);
  EXPECT_EQ(config->widest_window(), 0);
  EXPECT_EQ(config->rope.theta, 1e6);
  EXPECT_EQ(config->rope.factor, 8.0);
  EXPECT_EQ(config->local_rope().theta, 10000.0);
  EXPECT_EQ(config->local_rope().scaling, RopeConfig::Scaling::kNone);
  EXPECT_TRUE(config->rotates_locally(4) && !config->rotates_locally(5));
  EXPECT_FLOAT_EQ(config->embedding_scale, std::sqrt(1152.0f));
  EXPECT_DOUBLE_EQ(config->score_scale(), 1 / std::sqrt(168.0));
  const auto again = ModelConfig::FromJson(config->ToJson());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->ToJson(), config->ToJson());
  EXPECT_THAT(again->full_layers, ElementsAre(5, 11, 17, 23));
  json everywhere = Gemma3();
  everywhere["layer_types"] = std::vector<std::string>(26, "full_attention");
  const auto full = Read(everywhere);
  ASSERT_TRUE(full.ok()) << full.status();
  EXPECT_EQ(full->sliding_window, 0);
  EXPECT_EQ(full->local_rope().dimension, 0);
}

TEST(HuggingFaceConfigTest, GemmaRefusesByName) {
  const auto expect = [](const json& patch, absl::StatusCode code, const std::string& word) {
    json config = Gemma3();
    config.merge_patch(patch);
    const absl::Status status = Read(config).status();
    EXPECT_EQ(status.code(), code) << patch << " " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(word));
  };
  constexpr auto kUnsupported = absl::StatusCode::kUnimplemented;
  constexpr auto kWrong = absl::StatusCode::kInvalidArgument;
  expect({{"attn_logit_softcapping", 50.0}}, kUnsupported, "attn_logit_softcapping");
  expect({{"final_logit_softcapping", 30.0}}, kUnsupported, "final_logit_softcapping");
  expect({{"use_bidirectional_attention", true}}, kUnsupported, "use_bidirectional_attention");
  expect({{"hidden_activation", "relu"}}, kUnsupported, "hidden_activation \"relu\"");
  expect({{"model_type", "gemma2"}}, kUnsupported, "\"gemma2\"");
  expect({{"layer_types", {"full_attention"}}}, kWrong, "layer_types");
  expect({{"layer_types", std::vector<std::string>(26, "chunked_attention")}}, kUnsupported,
         "chunked_attention");
  expect({{"sliding_window_pattern", 0}}, kWrong, "sliding_window_pattern");
  expect({{"sliding_window", 0}}, kWrong, "sliding_window");
  expect({{"rope_local_base_freq", 0.5}}, kWrong, "local_rope_theta");
  expect({{"query_pre_attn_scalar", -1}}, kWrong, "attention_scalar");
  expect({{"rope_scaling", {{"rope_type", "yarn"}}}}, kUnsupported, "yarn");
  const json linear = {{"rope_type", "linear"}, {"factor", 2.0}};
  expect({{"rope_parameters", {{"full_attention", linear}, {"sliding_attention", linear}}}},
         kUnsupported, "rope_type \"linear\"");
  expect({{"rope_parameters", {{"rope_theta", 1e6}}}}, kWrong, "full_attention");
  ExpectUnsupported({{"rope_parameters", {{"full_attention", {{"rope_theta", 1e6}}}}}},
                    "full_attention");
}

TEST(HuggingFaceConfigTest, LlamaIsWrittenWithoutTheFieldsOfOtherFamilies) {
  const auto read = Read(Llama());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_THAT(read->ToJson(), ::testing::Not(HasSubstr("num_experts")));
  EXPECT_THAT(read->ToJson(), ::testing::Not(HasSubstr("activation")));
  EXPECT_THAT(read->ToJson(), ::testing::Not(HasSubstr("embedding_scale")));
}

TEST(HuggingFaceConfigTest, RefusesByName) {
  ExpectUnsupported({{"model_type", "falcon"}},
                    "\"falcon\" is not supported; supported are llama, mistral, mixtral, qwen2, ");
  ExpectUnsupported({{"architectures", {"LlamaForSequenceClassification"}}}, "LlamaForCausalLM");
  ExpectUnsupported({{"rope_scaling", {{"rope_type", "yarn"}}}},
                    "rope_scaling.type = yarn is not supported");
  ExpectUnsupported({{"rope_scaling", {{"rope_type", nullptr}, {"type", "dynamic"}}}}, "dynamic");
  ExpectUnsupported({{"rope_parameters", {{"rope_type", "longrope"}}}}, "longrope");
  ExpectUnsupported({{"hidden_act", "gelu"}}, "hidden_act \"gelu\"");
  ExpectUnsupported({{"quantization_config", {{"quant_method", "gptq"}}}},
                    "quantization_config \"gptq\"");
  ExpectWrong({{"quantization_config", {{"quant_method", 4}}}}, "quant_method");
  ExpectUnsupported({{"sliding_window", 4096}}, "sliding_window");
  ExpectUnsupported({{"layer_types", {"full_attention", "sliding_attention"}}},
                    "sliding_attention");
  ExpectUnsupported({{"partial_rotary_factor", 0.5}}, "partial_rotary_factor");
}

TEST(HuggingFaceConfigTest, RefusesWrongValues) {
  ExpectWrong({{"model_type", nullptr}}, "model_type is missing");
  ExpectWrong({{"hidden_size", nullptr}}, "hidden_size is missing");
  ExpectWrong({{"hidden_size", "big"}}, "hidden_size must be an integer");
  ExpectWrong({{"hidden_size", -1}}, "hidden_size must be");
  ExpectWrong({{"hidden_size", 1e18}}, "hidden_size");
  ExpectWrong({{"hidden_size", uint64_t{1} << 63}}, "hidden_size");
  ExpectWrong({{"num_hidden_layers", 5000}}, "num_layers");
  ExpectWrong({{"num_attention_heads", 0}}, "num_attention_heads");
  ExpectWrong({{"num_attention_heads", 31}, {"head_dim", nullptr}},
              "multiple of num_attention_heads");
  ExpectWrong({{"num_key_value_heads", 5}}, "num_kv_heads");
  ExpectWrong({{"head_dim", 63}}, "head_dim");
  ExpectWrong({{"vocab_size", 1 << 25}}, "vocab_size");
  ExpectWrong({{"rms_norm_eps", 0}}, "rms_norm_eps");
  ExpectWrong({{"rope_theta", 0.0}}, "rope.theta");
  ExpectWrong({{"rope_scaling", {{"factor", nullptr}}}}, "factor is missing");
  ExpectWrong({{"rope_scaling", {{"low_freq_factor", 4.0}}}}, "low_freq_factor");
  ExpectWrong({{"rope_scaling", "linear"}}, "rope_scaling must be an object");
  ExpectWrong({{"eos_token_id", "end"}}, "eos_token_id");
  ExpectWrong({{"eos_token_id", 200000}}, "eos_token_ids");
  ExpectWrong({{"tie_word_embeddings", "yes"}}, "tie_word_embeddings");
}

TEST(HuggingFaceConfigTest, GenerationConfigAddsEndsOfText) {
  HuggingFaceTexts texts;
  texts.generation_config = R"({"eos_token_id": [128009, 128001]})";
  const auto config = Read(Llama(), texts);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->eos_token_ids, ElementsAre(128009, 128001, 128008));
  texts.generation_config = "[]";
  EXPECT_THAT(std::string(Read(Llama(), texts).status().message()),
              HasSubstr("generation_config.json"));
}

TEST(HuggingFaceConfigTest, AddBosFromEitherTokenizerFile) {
  constexpr char kAdds[] =
      R"({"model":{"vocab":{"a":[[1]]}},"post_processor":{"type":"Sequence","processors":[
    {"type":"ByteLevel"},{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<bos>","type_id":0}},
    {"Sequence":{"id":"A","type_id":0}}],"special_tokens":{"<bos>":{"id":"<bos>","ids":[128000],"tokens":["<bos>"]}}}]}})";
  HuggingFaceTexts texts;
  EXPECT_FALSE(Read(Llama(), texts).value().add_bos);
  texts.tokenizer = kAdds;
  EXPECT_TRUE(Read(Llama(), texts).value().add_bos);
  texts.tokenizer_config = R"({"add_bos_token": false})";
  EXPECT_FALSE(Read(Llama(), texts).value().add_bos);
  texts.tokenizer = R"({"post_processor": null})";
  texts.tokenizer_config = R"({"add_bos_token": true})";
  EXPECT_TRUE(Read(Llama(), texts).value().add_bos);
  texts.tokenizer_config.clear();
  EXPECT_FALSE(Read(Llama(), texts).value().add_bos);
}

ModelConfig Full() {
  ModelConfig config = Read(Llama()).value();
  config.name = "a \"name\"";
  config.rope.theta = 1.0 / 3 + 1;
  config.rope.interleaved = true;
  config.rope.frequency_factors.assign(32, 0.1f);
  config.output_bias = config.mlp_bias = config.add_bos = true;
  return config;
}

TEST(ModelConfigTest, JsonComesBackUnchanged) {
  const ModelConfig config = Full();
  const auto back = ModelConfig::FromJson(config.ToJson());
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->ToJson(), config.ToJson());
  EXPECT_EQ(back->name, config.name);
  EXPECT_EQ(back->rope.theta, config.rope.theta);
  EXPECT_EQ(back->rope.frequency_factors, config.rope.frequency_factors);
  EXPECT_EQ(back->rms_norm_eps, config.rms_norm_eps);
  EXPECT_EQ(back->eos_token_ids, config.eos_token_ids);
  EXPECT_TRUE(back->rope.interleaved && back->output_bias && back->mlp_bias && back->add_bos &&
              back->tie_embeddings);
}

TEST(ModelConfigTest, InvalidUtf8InTheNameDoesNotBreakJson) {
  ModelConfig config = Full();
  config.name = "\xFF\xFE";
  EXPECT_TRUE(ModelConfig::FromJson(config.ToJson()).ok());
}

TEST(ModelConfigTest, FromJsonRefusesEveryMissingOrForeignField) {
  const json whole = json::parse(Full().ToJson());
  for (const auto& [key, value] : whole.items()) {
    json less = whole;
    less.erase(key);
    EXPECT_THAT(std::string(ModelConfig::FromJson(less.dump()).status().message()), HasSubstr(key));
    json wrong = whole;
    wrong[key] = json::array({json::object()});
    EXPECT_FALSE(ModelConfig::FromJson(wrong.dump()).ok()) << key;
  }
  for (const auto& [key, value] : whole["rope"].items()) {
    json less = whole;
    less["rope"].erase(key);
    EXPECT_THAT(std::string(ModelConfig::FromJson(less.dump()).status().message()), HasSubstr(key));
  }
  json more = whole;
  more["rope"]["yarn_beta"] = 1;
  EXPECT_THAT(std::string(ModelConfig::FromJson(more.dump()).status().message()),
              HasSubstr("yarn_beta"));
  EXPECT_FALSE(ModelConfig::FromJson("").ok());
  EXPECT_FALSE(ModelConfig::FromJson("{}").ok());
}

TEST(ModelConfigTest, ValidateNamesTheField) {
  const auto expect = [](auto change, const std::string& field) {
    ModelConfig config = Full();
    change(config);
    EXPECT_THAT(std::string(config.Validate().message()), HasSubstr(field));
  };
  expect([](ModelConfig& c) { c.architecture = "gpt2"; }, "architecture");
  expect(
      [](ModelConfig& c) {
        c.num_heads = 4096;
        c.num_kv_heads = 1;
        c.head_dim = 4096;
      },
      "num_heads * head_dim");
  expect([](ModelConfig& c) { c.max_context = 0; }, "max_context");
  expect([](ModelConfig& c) { c.rope.dimension = 32; }, "rope.dimension");
  expect([](ModelConfig& c) { c.rope.frequency_factors.pop_back(); }, "frequency_factors");
  expect([](ModelConfig& c) { c.rope.frequency_factors[3] = std::nanf(""); }, "frequency_factors");
  expect([](ModelConfig& c) { c.rms_norm_eps = std::nanf(""); }, "rms_norm_eps");
  expect([](ModelConfig& c) { c.full_layers = {1}; }, "sliding_window");
  expect([](ModelConfig& c) { c.local_rope_theta = 1e4; }, "sliding_window");
  expect([](ModelConfig& c) { c.sliding_window = 8, c.full_layers = {1, 1}; }, "full_layers");
  expect([](ModelConfig& c) { c.sliding_window = 8, c.full_layers = {16}; }, "full_layers");
  expect([](ModelConfig& c) { c.embedding_scale = 0; }, "embedding_scale");
  expect([](ModelConfig& c) { c.output_norms = c.parallel_residual = true; }, "output_norms");
  expect([](ModelConfig& c) { c.gated_mlp = false; }, "without gate");
  expect([](ModelConfig& c) { c.bos_token_id = -1; }, "add_bos");
  expect([](ModelConfig& c) { c.bos_token_id = c.vocab_size; }, "bos_token_id");
}

}  // namespace
}  // namespace lift
