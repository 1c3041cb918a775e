#include "server/model/model_layout.h"

#include <algorithm>

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

MambaNames MakeMamba(const SsmConfig& ssm, const std::string& prefix) {
  MambaNames names;
  names.in = {prefix + "in_proj", {prefix + "in_proj.weight"}};
  names.out = {prefix + "out_proj", {prefix + "out_proj.weight"}};
  names.conv = prefix + "conv1d.weight";
  names.a_log = prefix + "A_log";
  names.d = prefix + "D";
  if (ssm.kind == SsmKind::kMamba1) {
    names.x = {prefix + "x_proj", {prefix + "x_proj.weight"}};
    names.dt = {prefix + "dt_proj", {prefix + "dt_proj.weight"}};
    names.dt_bias = prefix + "dt_proj.bias";
  } else {
    names.dt_bias = prefix + "dt_bias";
    names.gated_norm = prefix + "norm.weight";
  }
  return names;
}

void AddMambaVectors(const ModelConfig& config, const LayerNames& names,
                     std::vector<VectorSpec>& out) {
  const SsmConfig& ssm = config.ssm;
  const MambaNames& m = names.mamba;
  const int64_t channels = ssm.conv_channels();
  out.push_back({names.input_norm, config.hidden_size});
  out.push_back({m.conv, channels * ssm.conv_kernel, channels, {channels, 1, ssm.conv_kernel}});
  if (ssm.conv_bias) out.push_back({BiasName(m.conv), channels});
  if (ssm.kind == SsmKind::kMamba1) {
    out.push_back({m.a_log, ssm.inner * ssm.state, ssm.inner});
  } else {
    out.push_back({m.a_log, ssm.heads});
    out.push_back({m.gated_norm, ssm.inner});
  }
  out.push_back({m.d, ssm.heads});
  out.push_back({m.dt_bias, ssm.heads});
  if (!ssm.bias) return;
  const int64_t projected =
      ssm.kind == SsmKind::kMamba1 ? 2 * ssm.inner : ssm.inner + channels + ssm.heads;
  out.push_back({BiasName(m.in.matrices[0]), projected});
  out.push_back({BiasName(m.out.matrices[0]), config.hidden_size});
}

void AddMambaMatrices(const ModelConfig& config, const MambaNames& names,
                      std::vector<MatrixSpec>& out) {
  const SsmConfig& ssm = config.ssm;
  if (ssm.kind == SsmKind::kMamba1) {
    out.push_back({names.in.matrices[0], 2 * ssm.inner, config.hidden_size});
    out.push_back({names.x.matrices[0], ssm.dt_rank + 2 * ssm.state, ssm.inner});
    out.push_back({names.dt.matrices[0], ssm.inner, ssm.dt_rank});
  } else {
    out.push_back(
        {names.in.matrices[0], ssm.inner + ssm.conv_channels() + ssm.heads, config.hidden_size});
  }
  out.push_back({names.out.matrices[0], config.hidden_size, ssm.inner});
}

void AddLayerVectors(const ModelConfig& config, int64_t layer, std::vector<VectorSpec>& out) {
  const Widths w(config);
  const LayerNames names(config, layer);
  if (config.recurrent()) return AddMambaVectors(config, names, out);
  AddNorm(config, names.input_norm, out);
  AddNorm(config, names.post_norm, out);
  if (config.output_norms) {
    AddNorm(config, names.attention_out_norm, out);
    AddNorm(config, names.mlp_out_norm, out);
  }
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
  if (config.recurrent()) {
    mamba = MakeMamba(config.ssm, p + "mixer.");
    return;
  }
  post_norm = p + "post_attention_layernorm.weight";
  if (config.output_norms) {  // named as in Gemma
    post_norm = p + "pre_feedforward_layernorm.weight";
    attention_out_norm = p + "post_attention_layernorm.weight";
    mlp_out_norm = p + "post_feedforward_layernorm.weight";
  }
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
  if (!mamba.in.name.empty()) {
    if (mamba.x.name.empty()) return {mamba.in, mamba.out};
    return {mamba.in, mamba.x, mamba.dt, mamba.out};
  }
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

int64_t StateBlockTokens(const ModelConfig& config, int64_t wanted) {
  return config.recurrent() ? config.max_context : wanted;
}

int64_t RecurrentStateFloats(const ModelConfig& config) {
  const SsmConfig& ssm = config.ssm;
  return (ssm.conv_kernel - 1) * ssm.conv_channels() + ssm.inner * ssm.state;
}

int64_t StateBlockBytes(const ModelConfig& config, int64_t block_tokens, KvFormat format) {
  if (config.recurrent()) return RecurrentStateFloats(config) * static_cast<int64_t>(sizeof(float));
  return 2 * config.num_kv_heads * block_tokens * KvHeadBytes(format, config.head_dim);
}

int64_t StateBlocks(const ModelConfig& config, int64_t tokens, int64_t wanted_block_tokens) {
  const int64_t block = StateBlockTokens(config, wanted_block_tokens);
  return std::max<int64_t>((tokens + block - 1) / block, 1);
}

std::vector<MatrixSpec> Matrices(const ModelConfig& config) {
  const Widths w(config);
  std::vector<MatrixSpec> specs = {{kEmbedding, config.vocab_size, w.hidden}};
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const LayerNames names(config, i);
    if (config.recurrent()) {
      AddMambaMatrices(config, names.mamba, specs);
      continue;
    }
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
