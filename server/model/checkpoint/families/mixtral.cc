#include "absl/strings/str_cat.h"
#include "server/model/checkpoint/families/families.h"

namespace lift::families {
namespace {

constexpr NameRule kHfNames[] = {
    {"model.layers.#.block_sparse_moe.gate", "model.layers.#.mlp.gate"},
    {"model.layers.#.block_sparse_moe.experts.#.w1", "model.layers.#.mlp.experts.#.gate_proj"},
    {"model.layers.#.block_sparse_moe.experts.#.w3", "model.layers.#.mlp.experts.#.up_proj"},
    {"model.layers.#.block_sparse_moe.experts.#.w2", "model.layers.#.mlp.experts.#.down_proj"},
};

// Old files hold one tensor an expert, newer ones three dimensions.
constexpr NameRule kExpertGgufNames[] = {
    {"blk.#.ffn_gate_inp", "model.layers.#.mlp.gate"},
    {"blk.#.ffn_gate.#", "model.layers.#.mlp.experts.#.gate_proj"},
    {"blk.#.ffn_up.#", "model.layers.#.mlp.experts.#.up_proj"},
    {"blk.#.ffn_down.#", "model.layers.#.mlp.experts.#.down_proj"},
    {"blk.#.ffn_gate_exps", "model.layers.#.mlp.all.gate_proj"},
    {"blk.#.ffn_up_exps", "model.layers.#.mlp.all.up_proj"},
    {"blk.#.ffn_down_exps", "model.layers.#.mlp.all.down_proj"},
};

std::span<const NameRule> GgufNames() {
  static const std::vector<NameRule> kNames = [] {
    std::vector<NameRule> names(std::begin(kExpertGgufNames), std::end(kExpertGgufNames));
    const std::span<const NameRule> shared = LlamaGgufNames();
    names.insert(names.end(), shared.begin(), shared.end());
    return names;
  }();
  return kNames;
}

absl::Status ReadHf(const JsonFields& fields, ModelConfig& config) {
  LIFT_ASSIGN_OR_RETURN(config.num_experts, fields.Int("num_local_experts"));
  LIFT_ASSIGN_OR_RETURN(config.experts_per_token, fields.Int("num_experts_per_tok"));
  if (config.num_experts < 1) return fields.Wrong("num_local_experts", "a positive integer");
  return absl::OkStatus();
}

absl::Status ReadGguf(const GgufFile& file, ModelConfig& config) {
  LIFT_ASSIGN_OR_RETURN(config.num_experts, file.GetInt("llama.expert_count", 0));
  LIFT_ASSIGN_OR_RETURN(config.experts_per_token, file.GetInt("llama.expert_used_count", 0));
  return BiasesFromGguf(file, config);
}

void WriteHf(const ModelConfig& config, nlohmann::json& fields) {
  fields["num_local_experts"] = config.num_experts;
  fields["num_experts_per_tok"] = config.experts_per_token;
}

absl::Status Split(const ModelConfig& config, bool, StoredTensors& tensors) {
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const std::string mlp = absl::StrCat("model.layers.", layer, ".mlp.");
    for (const char* part : {"gate_proj", "up_proj", "down_proj"}) {
      LIFT_RETURN_IF_ERROR(SplitExperts(tensors, absl::StrCat(mlp, "all.", part, ".weight"),
                                        config.num_experts, mlp + "experts.",
                                        absl::StrCat(".", part, ".weight")));
    }
  }
  return absl::OkStatus();
}

}  // namespace

Architecture Mixtral() {
  Architecture a{"mixtral", "MixtralForCausalLM", "llama", kHfNames, GgufNames()};
  a.sliding_window = true;
  a.read_hf = ReadHf;
  a.write_hf = WriteHf;
  a.read_gguf = ReadGguf;
  a.split = Split;
  return a;
}

}  // namespace lift::families
