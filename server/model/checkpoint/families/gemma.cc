// Gemma 3, text only: a norm behind attention and MLP too, scaled embeddings, a gated GELU, and
// layers with a window and a rotation of their own between those that see everything.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "server/model/checkpoint/families/families.h"
#include "server/model/checkpoint/quoted.h"

namespace lift::families {
namespace {

constexpr char kFull[] = "full_attention", kSliding[] = "sliding_attention";
constexpr char kActivation[] = "gelu_pytorch_tanh";
constexpr int64_t kPattern = 6;  // every sixth layer sees everything
constexpr double kLocalTheta = 10000;
constexpr int64_t kLayersOf27B = 62;  // whose GGUF files do not say how scores are scaled

constexpr NameRule kGgufNames[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
    {"blk.#.attn_norm", "model.layers.#.input_layernorm"},
    {"blk.#.attn_q", "model.layers.#.self_attn.q_proj"},
    {"blk.#.attn_k", "model.layers.#.self_attn.k_proj"},
    {"blk.#.attn_v", "model.layers.#.self_attn.v_proj"},
    {"blk.#.attn_q_norm", "model.layers.#.self_attn.q_norm"},
    {"blk.#.attn_k_norm", "model.layers.#.self_attn.k_norm"},
    {"blk.#.attn_output", "model.layers.#.self_attn.o_proj"},
    {"blk.#.post_attention_norm", "model.layers.#.post_attention_layernorm"},
    {"blk.#.ffn_norm", "model.layers.#.pre_feedforward_layernorm"},
    {"blk.#.ffn_gate", "model.layers.#.mlp.gate_proj"},
    {"blk.#.ffn_up", "model.layers.#.mlp.up_proj"},
    {"blk.#.ffn_down", "model.layers.#.mlp.down_proj"},
    {"blk.#.post_ffw_norm", "model.layers.#.post_feedforward_layernorm"},
};

absl::Status Unsupported(const std::string& source, const std::string& what,
                         const std::string& instead) {
  return absl::UnimplementedError(absl::StrCat(source, ": ", what, " is not supported; ", instead));
}

void SetShape(ModelConfig& config) {
  config.activation = Activation::kGeluTanh;
  config.qk_norm = config.output_norms = true;
  config.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(config.hidden_size)));
}

// Every `pattern`-th layer sees everything.
void SetPattern(ModelConfig& config, int64_t pattern) {
  constexpr int64_t kMost = 1024;  // Validate refuses more
  for (int64_t i = pattern - 1; i < std::min(config.num_layers, kMost); i += pattern)
    config.full_layers.push_back(i);
}

// A window that no layer has is none.
void DropUnusedWindow(ModelConfig& config) {
  if (static_cast<int64_t>(config.full_layers.size()) != config.num_layers) return;
  config.full_layers.clear();
  config.sliding_window = 0;
  config.local_rope_theta = 0;
}

// --- Hugging Face ---

absl::Status RefuseHf(const JsonFields& fields) {
  for (const char* key : {"attn_logit_softcapping", "final_logit_softcapping"}) {
    if (fields.Has(key)) return Unsupported(fields.source(), key, "use a model without it");
  }
  LIFT_ASSIGN_OR_RETURN(const bool both_ways, fields.Bool("use_bidirectional_attention", false));
  if (both_ways)
    return Unsupported(fields.source(), "use_bidirectional_attention", "use a language model");
  LIFT_ASSIGN_OR_RETURN(const std::string activation,
                        fields.String("hidden_activation", kActivation));
  if (activation != kActivation) {
    return Unsupported(fields.source(), absl::StrCat("hidden_activation ", Quoted(activation)),
                       absl::StrCat("supported is ", kActivation));
  }
  return absl::OkStatus();
}

absl::Status ReadLayerTypes(const JsonFields& fields, ModelConfig& config) {
  if (!fields.Has("layer_types")) {
    LIFT_ASSIGN_OR_RETURN(const int64_t pattern, fields.Int("sliding_window_pattern", kPattern));
    if (pattern < 1) return fields.Wrong("sliding_window_pattern", "a positive integer");
    SetPattern(config, pattern);
    return absl::OkStatus();
  }
  const nlohmann::json& types = fields.at("layer_types");
  if (!types.is_array() || static_cast<int64_t>(types.size()) != config.num_layers)
    return fields.Wrong("layer_types", "a list with one entry a layer");
  for (size_t i = 0; i < types.size(); ++i) {
    if (types[i] == kFull) {
      config.full_layers.push_back(static_cast<int64_t>(i));
    } else if (types[i] != kSliding) {
      return Unsupported(fields.source(),
                         absl::StrCat("layer_types with ", Quoted(types[i].dump())),
                         absl::StrCat("supported are ", kFull, " and ", kSliding));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadLocalRope(const JsonFields& fields, ModelConfig& config) {
  LIFT_ASSIGN_OR_RETURN(config.local_rope_theta,
                        fields.Number("rope_local_base_freq", kLocalTheta));
  if (!fields.Has("rope_parameters")) return absl::OkStatus();
  LIFT_ASSIGN_OR_RETURN(const JsonFields by_type, fields.Object("rope_parameters"));
  if (!by_type.Has(kFull)) return by_type.Wrong(kFull, "an object");
  if (!by_type.Has(kSliding)) return absl::OkStatus();
  LIFT_ASSIGN_OR_RETURN(const JsonFields local, by_type.Object(kSliding));
  LIFT_ASSIGN_OR_RETURN(const std::string type, local.String("rope_type", "default"));
  if (type != "default") {
    return Unsupported(local.source(), absl::StrCat("rope_type ", Quoted(type)),
                       "layers with a window are rotated without scaling");
  }
  LIFT_ASSIGN_OR_RETURN(config.local_rope_theta,
                        local.Number("rope_theta", config.local_rope_theta));
  return absl::OkStatus();
}

absl::Status ReadHf(const JsonFields& fields, ModelConfig& config) {
  LIFT_RETURN_IF_ERROR(RefuseHf(fields));
  SetShape(config);
  LIFT_ASSIGN_OR_RETURN(config.tie_embeddings, fields.Bool("tie_word_embeddings", true));
  LIFT_ASSIGN_OR_RETURN(config.attention_bias, fields.Bool("attention_bias", false));
  config.output_bias = config.attention_bias;
  LIFT_ASSIGN_OR_RETURN(config.attention_scalar, fields.Number("query_pre_attn_scalar", 256));
  LIFT_ASSIGN_OR_RETURN(config.sliding_window, fields.Int("sliding_window", 4096));
  if (config.sliding_window < 1) return fields.Wrong("sliding_window", "a positive integer");
  LIFT_RETURN_IF_ERROR(ReadLayerTypes(fields, config));
  LIFT_RETURN_IF_ERROR(ReadLocalRope(fields, config));
  DropUnusedWindow(config);
  return absl::OkStatus();
}

void WriteHf(const ModelConfig& config, nlohmann::json& fields) {
  fields.erase("hidden_act");
  fields["hidden_activation"] = kActivation;
  fields["attention_bias"] = config.attention_bias;
  fields["query_pre_attn_scalar"] = config.attention_scalar;
  if (config.attention_scalar == std::floor(config.attention_scalar))
    fields["query_pre_attn_scalar"] = static_cast<int64_t>(config.attention_scalar);
  fields["layer_types"] = nlohmann::json::array();
  for (int64_t i = 0; i < config.num_layers; ++i)
    fields["layer_types"].push_back(config.window(i) == 0 ? kFull : kSliding);
  if (config.sliding_window == 0) fields.erase("sliding_window");
  if (config.local_rope_theta > 0) fields["rope_local_base_freq"] = config.local_rope_theta;
}

// --- GGUF ---

absl::Status RefuseGguf(const GgufFile& file) {
  for (const char* key : {"gemma3.attn_logit_softcapping", "gemma3.final_logit_softcapping"}) {
    LIFT_ASSIGN_OR_RETURN(const double cap, file.GetFloat(key, 0));
    if (cap != 0) return Unsupported(file.name(), key, "use a model without it");
  }
  LIFT_ASSIGN_OR_RETURN(const bool causal, file.GetBool("gemma3.attention.causal", true));
  if (!causal)
    return Unsupported(file.name(), "gemma3.attention.causal = false", "use a language model");
  return absl::OkStatus();
}

absl::Status ReadGguf(const GgufFile& file, ModelConfig& config) {
  LIFT_RETURN_IF_ERROR(RefuseGguf(file));
  SetShape(config);
  config.attention_scalar = static_cast<double>(
      config.num_layers == kLayersOf27B ? config.hidden_size / config.num_heads : config.head_dim);
  LIFT_ASSIGN_OR_RETURN(config.sliding_window, file.GetInt("gemma3.attention.sliding_window", 0));
  if (config.sliding_window > 0) {
    LIFT_ASSIGN_OR_RETURN(const int64_t pattern,
                          file.GetInt("gemma3.attention.sliding_window_pattern", kPattern));
    if (pattern < 1) {
      return absl::InvalidArgumentError(
          absl::StrCat(file.name(), ": gemma3.attention.sliding_window_pattern must be positive"));
    }
    SetPattern(config, pattern);
    LIFT_ASSIGN_OR_RETURN(config.local_rope_theta,
                          file.GetFloat("gemma3.rope.freq_base_swa", kLocalTheta));
    DropUnusedWindow(config);
  }
  return BiasesFromGguf(file, config);
}

}  // namespace

Architecture Gemma3() {
  Architecture a{"gemma3_text", "Gemma3ForCausalLM", "gemma3", {}, kGgufNames};
  a.gelu = true;
  a.layer_windows = true;
  a.gains_less_one = true;
  a.rope_theta = 1e6;
  a.read_hf = ReadHf;
  a.write_hf = WriteHf;
  a.read_gguf = ReadGguf;
  return a;
}

}  // namespace lift::families
