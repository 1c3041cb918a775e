#include "server/model/checkpoint/families/families.h"

namespace lift::families {
namespace {

absl::Status ReadQwen2(const JsonFields&, ModelConfig& config) {
  config.attention_bias = true;  // always, on q, k and v only
  return absl::OkStatus();
}

absl::Status ReadQwen3(const JsonFields& fields, ModelConfig& config) {
  config.qk_norm = true;
  LIFT_ASSIGN_OR_RETURN(config.attention_bias, fields.Bool("attention_bias", false));
  config.output_bias = config.attention_bias;
  return absl::OkStatus();
}

void WriteQwen3(const ModelConfig& config, nlohmann::json& fields) {
  fields["attention_bias"] = config.attention_bias;
}

absl::Status ReadQwen3Gguf(const GgufFile& file, ModelConfig& config) {
  config.qk_norm = true;
  return BiasesFromGguf(file, config);
}

}  // namespace

Architecture Qwen2() {
  Architecture a{"qwen2", "Qwen2ForCausalLM", "qwen2", {}, LlamaGgufNames()};
  a.read_hf = ReadQwen2;
  a.read_gguf = BiasesFromGguf;
  return a;
}

Architecture Qwen3() {
  Architecture a{"qwen3", "Qwen3ForCausalLM", "qwen3", {}, LlamaGgufNames()};
  a.read_hf = ReadQwen3;
  a.write_hf = WriteQwen3;
  a.read_gguf = ReadQwen3Gguf;
  return a;
}

}  // namespace lift::families
