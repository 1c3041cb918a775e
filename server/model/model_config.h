// Hyperparameters of a decoder-only transformer, however they were stored.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/base/status.h"

namespace lift {

struct RopeConfig {
  enum class Scaling { kNone, kLinear, kLlama3 };
  double theta = 10000.0;
  Scaling scaling = Scaling::kNone;
  double factor = 1.0;                                   // linear and llama3
  double low_freq_factor = 1.0, high_freq_factor = 4.0;  // llama3
  int64_t original_context = 8192;                       // llama3
  int64_t dimension = 0;     // rotated leading dims of a head (= head_dim for Llama)
  bool interleaved = false;  // GGUF llama: pairs (2i, 2i+1); Hugging Face: (i, i + dim/2)
  std::vector<float>
      frequency_factors;  // GGUF rope_freqs.weight [dimension/2], divides frequencies; empty = none
};

// What distinguishes the families; the defaults are Llama's.
enum class NormKind { kRms, kLayer };  // kLayer subtracts the mean and has a bias
enum class Activation { kSilu, kGelu, kGeluTanh };

struct ModelConfig {
  std::string architecture;  // Hugging Face's model_type: "llama", "gpt_neox", ...
  std::string name;          // what a person calls the model
  int64_t vocab_size = 0, hidden_size = 0, intermediate_size = 0;
  int64_t num_layers = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0;
  int64_t max_context = 0;
  float rms_norm_eps = 1e-5f;  // of every norm, LayerNorm too
  NormKind norm = NormKind::kRms;
  Activation activation = Activation::kSilu;
  bool gated_mlp = true;           // act(gate) * up; else act(up)
  bool parallel_residual = false;  // attention and MLP both read the layer's input
  bool qk_norm = false;            // each head of q and k is normed before the rotation
  int64_t sliding_window = 0;      // keys a token sees, itself included; 0 = all
  int64_t num_experts = 0;         // 0 = one dense MLP
  int64_t experts_per_token = 0;   // whose weights sum to one
  RopeConfig rope;
  bool tie_embeddings = false;
  bool attention_bias = false, output_bias = false,
       mlp_bias = false;      // q/k/v bias; o_proj bias; gate/up/down bias
  int64_t bos_token_id = -1;  // -1 = none
  std::vector<int64_t> eos_token_ids;
  bool add_bos = false;  // the model expects BOS in front of every text

  std::string ToJson() const;
  static absl::StatusOr<ModelConfig> FromJson(
      const std::string& json);   // our own form, as ToJson writes
  absl::Status Validate() const;  // caps and consistency; one sentence naming the field
};

}  // namespace lift
