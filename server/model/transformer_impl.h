// The transformer's parts, shared by the files that implement it. Internal to server/model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "server/model/layers.h"
#include "server/model/mamba.h"
#include "server/model/mlp.h"
#include "server/model/transformer.h"

namespace lift {

struct DecoderLayer {
  Norm input_norm, post_norm;
  Norm attention_out_norm, mlp_out_norm;  // no gain without output_norms
  Norm q_norm, k_norm;                    // of each head; no gain without qk_norm
  AttentionShape attention;
  bool local_rope = false;
  LinearSite qkv, o;
  MlpBlock mlp;
  std::unique_ptr<MambaBlock> mamba;  // instead of attention and MLP
};

inline int64_t CountTokens(std::span<const SequenceChunk> chunks) {
  int64_t tokens = 0;
  for (const SequenceChunk& chunk : chunks) tokens += static_cast<int64_t>(chunk.tokens.size());
  return tokens;
}

struct Transformer::Impl {
  Impl(std::shared_ptr<const Weights> w, Backend& b, const Options& o)
      : weights(std::move(w)),
        backend(b),
        options(o),
        config(weights->config()),
        rope(config.rope),
        local_rope(config.local_rope()),
        workspace(b) {}

  ~Impl();

  std::shared_ptr<const Weights> weights;
  Backend& backend;
  Options options;
  const ModelConfig& config;
  const Matrix* embedding = nullptr;
  std::vector<DecoderLayer> layers;
  Norm final_norm;
  LinearSite head;
  RopeTable rope, local_rope;
  std::vector<std::unique_ptr<Buffer>> caches;  // [layers], see Backend::WriteKv
  Workspace workspace;
  std::unique_ptr<LiftedActivations> lifted;
  // Of the step in progress; members only to keep their memory.
  RowVariants rows, head_rows;
  std::vector<AttentionSequence> sequences, written;  // written: those that do not only look
  std::vector<RecurrentSequence> recurrent;
  std::vector<float> angles, head_output;
  uint64_t expert_planes_read = 0, expert_full_read = 0;

  absl::Status Bind();
  absl::Status AdoptWeights();
  absl::Status AllocateCache();
  absl::Status ReserveWorkspace();
  void Begin(std::span<const SequenceChunk> chunks);
  void CheckChunk(const SequenceChunk& chunk) const;
  void Observe(const LinearSite& site, const float* x, int64_t tokens, int64_t dim) const {
    ShowInput(options.observer, backend, site, x, tokens, dim);
  }
  void Attend(const DecoderLayer& layer, std::byte* cache, std::span<const SequenceChunk> chunks,
              float* x, int64_t tokens);
  void Mix(const DecoderLayer& layer, float* states, float* x, int64_t tokens);
  void FeedForward(DecoderLayer& layer, const float* normed, float* x, int64_t tokens);
  void EmbedRows(std::span<const SequenceChunk> chunks, float* out);
  void RunLayer(int64_t layer, std::span<const SequenceChunk> chunks, float* x);
  void RunHead(const float* x, int64_t count, std::span<const uint8_t> variants,
               std::vector<float>& logits);
  void LogitsOf(const float* hidden, std::span<const SequenceChunk> chunks,
                std::span<const size_t> order, std::vector<float>& logits);
  uint64_t BytesRead(std::span<const SequenceChunk> chunks) const;
  uint64_t AllExpertBytes(int variant, bool full) const;
};

}  // namespace lift
