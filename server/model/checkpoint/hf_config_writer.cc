#include "server/model/checkpoint/hf_config_writer.h"

#include "kernels/base/check.h"
#include "server/model/checkpoint/architecture.h"

namespace lift {
namespace {

using nlohmann::json;

json RopeScaling(const RopeConfig& rope) {
  switch (rope.scaling) {
    case RopeConfig::Scaling::kNone:
      return nullptr;
    case RopeConfig::Scaling::kLinear:
      return {{"rope_type", "linear"}, {"type", "linear"}, {"factor", rope.factor}};
    case RopeConfig::Scaling::kLlama3:
      return {{"rope_type", "llama3"},
              {"factor", rope.factor},
              {"low_freq_factor", rope.low_freq_factor},
              {"high_freq_factor", rope.high_freq_factor},
              {"original_max_position_embeddings", rope.original_context}};
  }
  return nullptr;
}

const char* ActivationName(Activation activation) {
  switch (activation) {
    case Activation::kSilu:
      return "silu";
    case Activation::kGelu:
      return "gelu";
    case Activation::kGeluTanh:
      return "gelu_new";
  }
  return "silu";
}

}  // namespace

absl::StatusOr<json> HuggingFaceConfigJson(const ModelConfig& config) {
  const Architecture* architecture = FindHuggingFace(config.architecture);
  LIFT_CHECK(architecture != nullptr);  // Validate has seen to it
  if (!config.rope.frequency_factors.empty()) {
    return absl::UnimplementedError(
        "the model's rotation has frequency factors (rope_freqs.weight of its GGUF file), which a "
        "config.json cannot hold; calibrate from the Hugging Face folder instead");
  }
  json fields = {{"model_type", std::string(architecture->name)},
                 {"architectures", {std::string(architecture->hf_class)}},
                 {"torch_dtype", "float32"},
                 {"vocab_size", config.vocab_size},
                 {"hidden_size", config.hidden_size},
                 {"intermediate_size", config.intermediate_size},
                 {"num_hidden_layers", config.num_layers},
                 {"num_attention_heads", config.num_heads},
                 {"num_key_value_heads", config.num_kv_heads},
                 {"head_dim", config.head_dim},
                 {"max_position_embeddings", config.max_context},
                 {"rms_norm_eps", config.rms_norm_eps},
                 {"hidden_act", ActivationName(config.activation)},
                 {"rope_theta", config.rope.theta},
                 {"rope_scaling", RopeScaling(config.rope)},
                 {"tie_word_embeddings", config.tie_embeddings},
                 {"sliding_window", nullptr},
                 {"bos_token_id", nullptr},
                 {"eos_token_id", nullptr}};
  if (config.sliding_window > 0) fields["sliding_window"] = config.sliding_window;
  if (config.bos_token_id >= 0) fields["bos_token_id"] = config.bos_token_id;
  if (config.eos_token_ids.size() == 1) fields["eos_token_id"] = config.eos_token_ids[0];
  if (config.eos_token_ids.size() > 1) fields["eos_token_id"] = config.eos_token_ids;
  if (architecture->write_hf) architecture->write_hf(config, fields);
  return fields;
}

}  // namespace lift
