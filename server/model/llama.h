// The Llama family: which weights it has, under which names and shapes, and which of them share an
// input.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "server/model/model_config.h"

namespace lift::llama {

struct MatrixSpec {
  std::string name;
  int64_t rows = 0, cols = 0;
};

struct VectorSpec {
  std::string name;
  int64_t size = 0;
};

// Linear layers that read the same input; the observer and the lifted kernels know them by this
// name.
struct SiteSpec {
  std::string name;
  std::vector<std::string> matrices;
};

// Canonical names of one decoder layer.
struct LayerNames {
  explicit LayerNames(int64_t layer);
  std::string input_norm, post_norm;
  SiteSpec qkv, o, gate_up, down;
};

inline constexpr char kEmbedding[] = "model.embed_tokens.weight";
inline constexpr char kFinalNorm[] = "model.norm.weight";
// The output head: lm_head.weight, or the embedding where they are tied.
std::string HeadName(const ModelConfig& config);
// "x.weight" -> "x.bias".
std::string BiasName(const std::string& matrix);

std::vector<MatrixSpec> Matrices(const ModelConfig& config);
std::vector<VectorSpec> Vectors(const ModelConfig& config);
std::vector<SiteSpec> Sites(const ModelConfig& config);

}  // namespace lift::llama
