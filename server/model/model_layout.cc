#include "server/model/model_layout.h"

#include "absl/strings/str_cat.h"

namespace lift::layout {
namespace {

struct Widths {
  int64_t hidden, q, kv, mlp;
  explicit Widths(const ModelConfig& c)
      : hidden(c.hidden_size),
        q(c.num_heads * c.head_dim),
        kv(c.num_kv_heads * c.head_dim),
        mlp(c.intermediate_size) {}
};

MlpNames MakeMlp(const std::string& prefix, bool gated) {
  MlpNames mlp;
  mlp.gate_up.name = prefix + "gate_up";
  if (gated) mlp.gate_up.matrices.push_back(prefix + "gate_proj.weight");
  mlp.gate_up.matrices.push_back(prefix + "up_proj.weight");
  mlp.down = {prefix + "down_proj", {prefix + "down_proj.weight"}};
  return mlp;
}

void AddNorm(const ModelConfig& config, const std::string& name, std::vector<VectorSpec>& out) {
  out.push_back({name, config.hidden_size});
  if (config.norm == NormKind::kLayer) out.push_back({BiasName(name), config.hidden_size});
}

void AddLayerVectors(const ModelConfig& config, int64_t layer, std::vector<VectorSpec>& out) {
  const Widths w(config);
  const LayerNames names(config, layer);
  AddNorm(config, names.input_norm, out);
  AddNorm(config, names.post_norm, out);
  if (config.qk_norm) {
    out.push_back({names.q_norm, config.head_dim});
    out.push_back({names.k_norm, config.head_dim});
  }
  if (config.attention_bias) {
    out.push_back({BiasName(names.qkv.matrices[0]), w.q});
    out.push_back({BiasName(names.qkv.matrices[1]), w.kv});
    out.push_back({BiasName(names.qkv.matrices[2]), w.kv});
  }
  if (config.output_bias) out.push_back({BiasName(names.o.matrices[0]), w.hidden});
  if (config.num_experts > 0)
    out.push_back({names.router, config.num_experts * w.hidden, config.num_experts});
  if (!config.mlp_bias) return;
  for (const MlpNames& mlp : names.mlps) {
    for (const std::string& matrix : mlp.gate_up.matrices) out.push_back({BiasName(matrix), w.mlp});
    out.push_back({BiasName(mlp.down.matrices[0]), w.hidden});
  }
}

}  // namespace

LayerNames::LayerNames(const ModelConfig& config, int64_t layer) {
  const std::string p = absl::StrCat("model.layers.", layer, ".");
  input_norm = p + "input_layernorm.weight";
  post_norm = p + "post_attention_layernorm.weight";
  if (config.qk_norm) {
    q_norm = p + "self_attn.q_norm.weight";
    k_norm = p + "self_attn.k_norm.weight";
  }
  qkv = {p + "self_attn.qkv",
         {p + "self_attn.q_proj.weight", p + "self_attn.k_proj.weight",
          p + "self_attn.v_proj.weight"}};
  o = {p + "self_attn.o_proj", {p + "self_attn.o_proj.weight"}};
  if (config.num_experts == 0) {
    mlps.push_back(MakeMlp(p + "mlp.", config.gated_mlp));
    return;
  }
  router = p + "mlp.gate.weight";
  for (int64_t e = 0; e < config.num_experts; ++e)
    mlps.push_back(MakeMlp(absl::StrCat(p, "mlp.experts.", e, "."), config.gated_mlp));
}

std::vector<SiteSpec> LayerNames::Sites() const {
  std::vector<SiteSpec> sites = {qkv, o};
  for (const MlpNames& mlp : mlps) {
    sites.push_back(mlp.gate_up);
    sites.push_back(mlp.down);
  }
  return sites;
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
    const LayerNames names(config, i);
    specs.push_back({names.qkv.matrices[0], w.q, w.hidden});
    specs.push_back({names.qkv.matrices[1], w.kv, w.hidden});
    specs.push_back({names.qkv.matrices[2], w.kv, w.hidden});
    specs.push_back({names.o.matrices[0], w.hidden, w.q});
    for (const MlpNames& mlp : names.mlps) {
      for (const std::string& matrix : mlp.gate_up.matrices)
        specs.push_back({matrix, w.mlp, w.hidden});
      specs.push_back({mlp.down.matrices[0], w.hidden, w.mlp});
    }
  }
  if (!config.tie_embeddings) specs.push_back({HeadName(config), config.vocab_size, w.hidden});
  return specs;
}

std::vector<VectorSpec> Vectors(const ModelConfig& config) {
  std::vector<VectorSpec> specs;
  for (int64_t i = 0; i < config.num_layers; ++i) AddLayerVectors(config, i, specs);
  AddNorm(config, kFinalNorm, specs);
  return specs;
}

std::vector<SiteSpec> Sites(const ModelConfig& config) {
  std::vector<SiteSpec> sites;
  for (int64_t i = 0; i < config.num_layers; ++i) {
    for (SiteSpec& site : LayerNames(config, i).Sites()) sites.push_back(std::move(site));
  }
  sites.push_back({"lm_head", {HeadName(config)}});
  return sites;
}

}  // namespace lift::layout
