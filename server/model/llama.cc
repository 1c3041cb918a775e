#include "server/model/llama.h"

#include "absl/strings/str_cat.h"

namespace lift::llama {
namespace {

struct Widths {
  int64_t hidden, q, kv, mlp;
  explicit Widths(const ModelConfig& c)
      : hidden(c.hidden_size),
        q(c.num_heads * c.head_dim),
        kv(c.num_kv_heads * c.head_dim),
        mlp(c.intermediate_size) {}
};

}  // namespace

LayerNames::LayerNames(int64_t layer) {
  const std::string p = absl::StrCat("model.layers.", layer, ".");
  input_norm = p + "input_layernorm.weight";
  post_norm = p + "post_attention_layernorm.weight";
  qkv = {p + "self_attn.qkv",
         {p + "self_attn.q_proj.weight", p + "self_attn.k_proj.weight",
          p + "self_attn.v_proj.weight"}};
  o = {p + "self_attn.o_proj", {p + "self_attn.o_proj.weight"}};
  gate_up = {p + "mlp.gate_up", {p + "mlp.gate_proj.weight", p + "mlp.up_proj.weight"}};
  down = {p + "mlp.down_proj", {p + "mlp.down_proj.weight"}};
}

std::string HeadName(const ModelConfig& config) {
  return config.tie_embeddings ? kEmbedding : "lm_head.weight";
}

std::string BiasName(const std::string& matrix) {
  return matrix.substr(0, matrix.rfind('.')) + ".bias";
}

std::vector<MatrixSpec> Matrices(const ModelConfig& config) {
  const Widths w(config);
  std::vector<MatrixSpec> specs = {{kEmbedding, config.vocab_size, w.hidden}};
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const LayerNames names(i);
    specs.push_back({names.qkv.matrices[0], w.q, w.hidden});
    specs.push_back({names.qkv.matrices[1], w.kv, w.hidden});
    specs.push_back({names.qkv.matrices[2], w.kv, w.hidden});
    specs.push_back({names.o.matrices[0], w.hidden, w.q});
    specs.push_back({names.gate_up.matrices[0], w.mlp, w.hidden});
    specs.push_back({names.gate_up.matrices[1], w.mlp, w.hidden});
    specs.push_back({names.down.matrices[0], w.hidden, w.mlp});
  }
  if (!config.tie_embeddings) specs.push_back({HeadName(config), config.vocab_size, w.hidden});
  return specs;
}

std::vector<VectorSpec> Vectors(const ModelConfig& config) {
  const Widths w(config);
  std::vector<VectorSpec> specs;
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const LayerNames names(i);
    specs.push_back({names.input_norm, w.hidden});
    specs.push_back({names.post_norm, w.hidden});
    if (config.attention_bias) {
      specs.push_back({BiasName(names.qkv.matrices[0]), w.q});
      specs.push_back({BiasName(names.qkv.matrices[1]), w.kv});
      specs.push_back({BiasName(names.qkv.matrices[2]), w.kv});
    }
    if (config.output_bias) specs.push_back({BiasName(names.o.matrices[0]), w.hidden});
    if (config.mlp_bias) {
      specs.push_back({BiasName(names.gate_up.matrices[0]), w.mlp});
      specs.push_back({BiasName(names.gate_up.matrices[1]), w.mlp});
      specs.push_back({BiasName(names.down.matrices[0]), w.hidden});
    }
  }
  specs.push_back({kFinalNorm, w.hidden});
  return specs;
}

std::vector<SiteSpec> Sites(const ModelConfig& config) {
  std::vector<SiteSpec> sites;
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const LayerNames names(i);
    for (const SiteSpec& site : {names.qkv, names.o, names.gate_up, names.down})
      sites.push_back(site);
  }
  sites.push_back({"lm_head", {HeadName(config)}});
  return sites;
}

}  // namespace lift::llama
