// StarCoder2: the transformer of Llama with LayerNorm, biases and a GELU without gate.
#include "server/model/checkpoint/families/families.h"

namespace lift::families {
namespace {

constexpr NameRule kHfNames[] = {
    {"model.layers.#.mlp.c_fc", "model.layers.#.mlp.up_proj"},
    {"model.layers.#.mlp.c_proj", "model.layers.#.mlp.down_proj"},
};

void SetShape(ModelConfig& config, bool bias) {
  config.norm = NormKind::kLayer;
  config.gated_mlp = false;
  config.attention_bias = config.output_bias = config.mlp_bias = bias;
}

absl::Status ReadHf(const JsonFields& fields, ModelConfig& config) {
  LIFT_ASSIGN_OR_RETURN(const bool bias, fields.Bool("use_bias", true));
  SetShape(config, bias);
  LIFT_ASSIGN_OR_RETURN(const double eps, fields.Number("norm_epsilon", 1e-5));
  config.rms_norm_eps = static_cast<float>(eps);
  LIFT_ASSIGN_OR_RETURN(config.tie_embeddings, fields.Bool("tie_word_embeddings", true));
  return absl::OkStatus();
}

void WriteHf(const ModelConfig& config, nlohmann::json& fields) {
  fields["norm_epsilon"] = config.rms_norm_eps;
  fields["use_bias"] = config.attention_bias;
}

absl::Status ReadGguf(const GgufFile& file, ModelConfig& config) {
  SetShape(config, file.FindTensor("blk.0.attn_q.bias") != nullptr);
  LIFT_ASSIGN_OR_RETURN(const double eps,
                        file.GetFloat("starcoder2.attention.layer_norm_epsilon", 1e-5));
  config.rms_norm_eps = static_cast<float>(eps);
  config.activation = Activation::kGeluTanh;  // the file does not say; all published ones have it
  return absl::OkStatus();
}

}  // namespace

Architecture Starcoder2() {
  Architecture a{"starcoder2", "Starcoder2ForCausalLM", "starcoder2", kHfNames, LlamaGgufNames()};
  a.gelu = true;
  a.sliding_window = true;
  a.read_hf = ReadHf;
  a.write_hf = WriteHf;
  a.read_gguf = ReadGguf;
  return a;
}

}  // namespace lift::families
