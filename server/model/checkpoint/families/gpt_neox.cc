#include "absl/strings/str_cat.h"
#include "server/model/checkpoint/families/families.h"

namespace lift::families {
namespace {

constexpr NameRule kHfNames[] = {
    {"gpt_neox.embed_in", "model.embed_tokens"},
    {"gpt_neox.final_layer_norm", "model.norm"},
    {"embed_out", "lm_head"},
    {"gpt_neox.layers.#.input_layernorm", "model.layers.#.input_layernorm"},
    {"gpt_neox.layers.#.post_attention_layernorm", "model.layers.#.post_attention_layernorm"},
    {"gpt_neox.layers.#.attention.query_key_value", "model.layers.#.self_attn.qkv"},
    {"gpt_neox.layers.#.attention.dense", "model.layers.#.self_attn.o_proj"},
    {"gpt_neox.layers.#.mlp.dense_h_to_4h", "model.layers.#.mlp.up_proj"},
    {"gpt_neox.layers.#.mlp.dense_4h_to_h", "model.layers.#.mlp.down_proj"},
};

constexpr NameRule kGgufNames[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
    {"blk.#.attn_norm", "model.layers.#.input_layernorm"},
    {"blk.#.ffn_norm", "model.layers.#.post_attention_layernorm"},
    {"blk.#.attn_qkv", "model.layers.#.self_attn.qkv"},
    {"blk.#.attn_output", "model.layers.#.self_attn.o_proj"},
    {"blk.#.ffn_up", "model.layers.#.mlp.up_proj"},
    {"blk.#.ffn_down", "model.layers.#.mlp.down_proj"},
};

void SetShape(ModelConfig& config) {
  config.norm = NormKind::kLayer;
  config.gated_mlp = false;
  config.mlp_bias = true;
}

absl::Status ReadHf(const JsonFields& fields, ModelConfig& config) {
  SetShape(config);
  LIFT_ASSIGN_OR_RETURN(const double eps, fields.Number("layer_norm_eps", 1e-5));
  config.rms_norm_eps = static_cast<float>(eps);
  LIFT_ASSIGN_OR_RETURN(config.parallel_residual, fields.Bool("use_parallel_residual", true));
  LIFT_ASSIGN_OR_RETURN(config.attention_bias, fields.Bool("attention_bias", true));
  config.output_bias = config.attention_bias;
  if (fields.Has("rope_parameters")) return absl::OkStatus();  // the common fields have said it
  LIFT_ASSIGN_OR_RETURN(config.rope.theta, fields.Number("rotary_emb_base", config.rope.theta));
  LIFT_ASSIGN_OR_RETURN(const double part, fields.Number("rotary_pct", 0.25));
  if (!(part > 0 && part <= 1)) return fields.Wrong("rotary_pct", "a share of the head, 0 to 1");
  config.rope.dimension = static_cast<int64_t>(static_cast<double>(config.head_dim) * part);
  return absl::OkStatus();
}

void WriteHf(const ModelConfig& config, nlohmann::json& fields) {
  fields["layer_norm_eps"] = config.rms_norm_eps;
  fields["use_parallel_residual"] = config.parallel_residual;
  fields["attention_bias"] = config.attention_bias;
  fields["rotary_emb_base"] = config.rope.theta;
  fields["rotary_pct"] =
      static_cast<double>(config.rope.dimension) / static_cast<double>(config.head_dim);
}

absl::Status ReadGguf(const GgufFile& file, ModelConfig& config) {
  SetShape(config);
  LIFT_ASSIGN_OR_RETURN(const double eps,
                        file.GetFloat("gptneox.attention.layer_norm_epsilon", 1e-5));
  config.rms_norm_eps = static_cast<float>(eps);
  LIFT_ASSIGN_OR_RETURN(config.parallel_residual,
                        file.GetBool("gptneox.use_parallel_residual", true));
  config.attention_bias = file.FindTensor("blk.0.attn_qkv.bias") != nullptr;
  config.output_bias = file.FindTensor("blk.0.attn_output.bias") != nullptr;
  config.activation = Activation::kGelu;  // the file does not say; all published ones have it
  return absl::OkStatus();
}

std::vector<FusedTensor> Fused(const ModelConfig& config) {
  std::vector<FusedTensor> fused;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const std::string attention = absl::StrCat("model.layers.", layer, ".self_attn.");
    for (const char* kind : {".weight", ".bias"}) {
      if (kind[1] == 'b' && !config.attention_bias) continue;
      FusedTensor tensor{absl::StrCat(attention, "qkv", kind), {}, config.num_heads};
      for (const char* part : {"q_proj", "k_proj", "v_proj"})
        tensor.parts.push_back(absl::StrCat(attention, part, kind));
      fused.push_back(std::move(tensor));
    }
  }
  return fused;
}

// Hugging Face stores q, k, v head by head; the GGUF converter one after the other.
absl::Status Split(const ModelConfig& config, bool gguf, StoredTensors& tensors) {
  const int64_t rows = config.num_heads * config.head_dim;
  for (const FusedTensor& fused : Fused(config)) {
    std::vector<RowPart> parts;
    for (const std::string& part : fused.parts) parts.push_back({part, rows});
    LIFT_RETURN_IF_ERROR(gguf ? SplitRows(tensors, fused.name, parts)
                              : SplitHeads(tensors, fused.name, fused.parts, fused.heads));
  }
  return absl::OkStatus();
}

}  // namespace

Architecture GptNeoX() {
  Architecture a{"gpt_neox", "GPTNeoXForCausalLM", "gptneox", kHfNames, kGgufNames};
  a.gelu = true;
  a.partial_rotary = true;
  a.read_hf = ReadHf;
  a.read_gguf = ReadGguf;
  a.split = Split;
  a.write_hf = WriteHf;
  a.fused = Fused;
  return a;
}

}  // namespace lift::families
