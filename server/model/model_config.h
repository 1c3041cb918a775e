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

// Layers of a selective state space instead of attention and MLP.
enum class SsmKind { kNone, kMamba1, kMamba2 };

struct SsmConfig {
  SsmKind kind = SsmKind::kNone;
  int64_t inner = 0;                         // channels; heads * head_dim
  int64_t state = 0;                         // state per channel
  int64_t conv_kernel = 0;                   // inputs the convolution sees, the newest included
  int64_t dt_rank = 0;                       // Mamba-1: rank of the time step's projection
  int64_t heads = 0, head_dim = 0;           // Mamba-1: inner heads of dimension 1
  int64_t groups = 1;                        // of heads that share B and C
  bool conv_bias = false, bias = false;      // the convolution's; in_proj's and out_proj's
  float dt_min = 0, dt_max = 3.4028235e38f;  // limits of the time step
  // Mamba-2 convolves x, B and C, Mamba-1 x alone.
  int64_t conv_channels() const {
    return kind == SsmKind::kMamba2 ? inner + 2 * groups * state : inner;
  }
};

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
  bool output_norms = false;       // what attention and MLP add to the residual is normed, too
  int64_t sliding_window = 0;      // keys a token sees, itself included; 0 = all
  // Layers that see all keys although there is a sliding_window; ascending.
  std::vector<int64_t> full_layers;
  // Rotation of the layers with the window where it is not that of `rope`, unscaled; 0 = it is.
  double local_rope_theta = 0;
  double attention_scalar = 0;    // scores are divided by its square root; 0 = head_dim
  float embedding_scale = 1;      // of embeddings as the first layer reads them, not of a tied head
  int64_t num_experts = 0;        // 0 = one dense MLP
  int64_t experts_per_token = 0;  // whose weights sum to one
  SsmConfig ssm;  // kind kNone: attention; else the fields of attention and MLP are 0
  bool recurrent() const { return ssm.kind != SsmKind::kNone; }
  RopeConfig rope;
  // Keys a token sees in one layer, and in that which sees most; 0 = all.
  int64_t window(int64_t layer) const;
  int64_t widest_window() const { return full_layers.empty() ? sliding_window : 0; }
  // Does the layer rotate by local_rope() instead of `rope`?
  bool rotates_locally(int64_t layer) const { return local_rope_theta > 0 && window(layer) > 0; }
  RopeConfig local_rope() const;  // of dimension 0 if no layer has it
  double score_scale() const;     // of the products of queries and keys
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
