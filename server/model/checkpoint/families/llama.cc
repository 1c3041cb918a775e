#include "server/model/checkpoint/families/families.h"

namespace lift::families {
namespace {

absl::Status ReadHf(const JsonFields& fields, ModelConfig& config) {
  LIFT_ASSIGN_OR_RETURN(config.attention_bias, fields.Bool("attention_bias", false));
  config.output_bias = config.attention_bias;
  LIFT_ASSIGN_OR_RETURN(config.mlp_bias, fields.Bool("mlp_bias", false));
  return absl::OkStatus();
}

void WriteHf(const ModelConfig& config, nlohmann::json& fields) {
  fields["attention_bias"] = config.attention_bias;
  fields["mlp_bias"] = config.mlp_bias;
}

}  // namespace

std::span<const NameRule> LlamaGgufNames() {
  static constexpr NameRule kNames[] = {
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
      {"blk.#.ffn_norm", "model.layers.#.post_attention_layernorm"},
      {"blk.#.ffn_gate", "model.layers.#.mlp.gate_proj"},
      {"blk.#.ffn_up", "model.layers.#.mlp.up_proj"},
      {"blk.#.ffn_down", "model.layers.#.mlp.down_proj"},
  };
  return kNames;
}

absl::Status BiasesFromGguf(const GgufFile& file, ModelConfig& config) {
  config.attention_bias = file.FindTensor("blk.0.attn_q.bias") != nullptr;
  config.output_bias = file.FindTensor("blk.0.attn_output.bias") != nullptr;
  config.mlp_bias = file.FindTensor("blk.0.ffn_gate.bias") != nullptr;
  return absl::OkStatus();
}

Architecture Llama() {
  Architecture a{"llama", "LlamaForCausalLM", "llama", {}, LlamaGgufNames()};
  a.read_hf = ReadHf;
  a.write_hf = WriteHf;
  a.read_gguf = BiasesFromGguf;
  return a;
}

}  // namespace lift::families
