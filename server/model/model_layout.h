// Which weights a decoder of a given config has, under which canonical names and shapes, and which
// of them share an input. Canonical names are Hugging Face's for Llama, whatever the family calls
// its own.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/base/kv_format.h"
#include "server/model/model_config.h"

namespace lift::layout {

struct MatrixSpec {
  std::string name;
  int64_t rows = 0, cols = 0;
};

// Norms, biases and expert routers: kept in f32, never lifted. rows > 1 for a small matrix.
struct VectorSpec {
  std::string name;
  int64_t size = 0;
  int64_t rows = 1;
  std::vector<int64_t> shape = {};  // as stored, where rows do not say it
};

// Linear layers that read the same input; the observer and the lifted kernels know them by this
// name.
struct SiteSpec {
  std::string name;
  std::vector<std::string> matrices;
};

// One gated MLP; `gate_up` has no gate where the config has none.
struct MlpNames {
  SiteSpec gate_up, down;
};

// The mixer of a Mamba layer; Mamba-2 has a gated norm where Mamba-1 has x and dt.
struct MambaNames {
  SiteSpec in, x, dt, out;
  std::string conv, a_log, d, dt_bias, gated_norm;
};

// Canonical names of one decoder layer. A recurrent one has input_norm and mamba only.
struct LayerNames {
  LayerNames(const ModelConfig& config, int64_t layer);
  MambaNames mamba;
  std::string input_norm, post_norm;
  std::string attention_out_norm, mlp_out_norm;  // empty without output_norms
  std::string q_norm, k_norm;                    // empty without qk_norm
  SiteSpec qkv, o;
  std::string router;          // [num_experts, hidden]; empty without experts
  std::vector<MlpNames> mlps;  // one, or one an expert
  // All sites in the order of the graph.
  std::vector<SiteSpec> Sites() const;
};

inline constexpr char kEmbedding[] = "model.embed_tokens.weight";
inline constexpr char kFinalNorm[] = "model.norm.weight";
// The output head: lm_head.weight, or the embedding where they are tied.
std::string HeadName(const ModelConfig& config);
// "x.weight" -> "x.bias".
std::string BiasName(const std::string& matrix);

// The state of a sequence lies in blocks of this many tokens: `wanted`, or the whole context where
// the state does not grow with the tokens (one block is then one sequence's state).
int64_t StateBlockTokens(const ModelConfig& config, int64_t wanted);
// Bytes of one layer's state in one block of so many tokens. Recurrent state is f32 in any case.
int64_t StateBlockBytes(const ModelConfig& config, int64_t block_tokens, KvFormat format);
// Floats of one layer's state of one sequence; recurrent models only.
int64_t RecurrentStateFloats(const ModelConfig& config);
// Blocks that one sequence of so many tokens needs.
int64_t StateBlocks(const ModelConfig& config, int64_t tokens, int64_t wanted_block_tokens);

std::vector<MatrixSpec> Matrices(const ModelConfig& config);
std::vector<VectorSpec> Vectors(const ModelConfig& config);
std::vector<SiteSpec> Sites(const ModelConfig& config);

}  // namespace lift::layout
