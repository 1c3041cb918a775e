// The one model graph: full precision and every variant, in calibration, evaluation and serving.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "server/model/step_model.h"
#include "server/model/weights.h"

namespace lift {

// Sees the inputs of linear layers (before rotation), for calibration. x: [tokens, dim], valid
// during the call.
class ActivationObserver {
 public:
  virtual ~ActivationObserver() = default;
  // site: canonical prefix of the input, e.g. "model.layers.3.self_attn.qkv", ".self_attn.o_proj",
  // ".mlp.gate_up", ".mlp.down_proj", ".mlp.experts.2.gate_up" (the rows that chose the
  // expert), "lm_head".
  virtual void OnInput(const std::string& site, const float* x, int64_t tokens, int64_t dim) = 0;
};

// Runs the graph over a paged key/value cache it owns. Not thread-safe: one step at a time.
class Transformer : public StepModel {
 public:
  struct Options {
    int64_t block_tokens = 16;  // of a recurrent model: its whole context, whatever is asked for
    int64_t num_blocks = 0;  // 0 = enough for one sequence of max_context (capped at 8192 tokens)
    int64_t reserve_tokens =
        0;  // workspace for steps of this many tokens is allocated at once; larger steps grow it
    KvFormat kv_format = KvFormat::kF32;
    // Those that steps will name: a device with memory of its own keeps no weights of others.
    // Empty: all.
    std::vector<int> variants = {};
    ActivationObserver* observer = nullptr;
  };
  // Checks every weight's presence and shape against the config. `weights` and `backend` must
  // outlive the model.
  static absl::StatusOr<std::unique_ptr<Transformer>> Create(std::shared_ptr<const Weights> weights,
                                                             Backend& backend, Options options);
  ~Transformer() override;

  int64_t vocab_size() const override;
  int64_t max_context() const override;
  std::span<const LiftedVariant> variants() const override;
  int64_t block_tokens() const override;
  int64_t num_blocks() const override;
  int64_t bytes_per_block() const override;
  bool reusable_state() const override;
  int64_t state_window() const override;
  void CopyState(int32_t from, int32_t to) override;
  bool swappable_state() const override { return true; }
  void SaveBlock(int32_t block, std::span<std::byte> out) override;
  void RestoreBlock(int32_t block, std::span<const std::byte> in) override;
  StepStats Step(std::span<const SequenceChunk> chunks, std::vector<float>& logits) override;
  void Retain(std::span<const int> variants) override;

  // The pieces of Step, for calibration one block at a time. hidden: f32 [tokens of all chunks,
  // hidden_size].
  void Embed(std::span<const SequenceChunk> chunks, std::vector<float>& hidden);
  void RunLayer(int64_t layer, std::span<const SequenceChunk> chunks, std::vector<float>& hidden);
  // The final norm alone; may alias.
  void FinalNorm(const float* hidden, int64_t rows, float* out);
  // Final norm and output head over `rows` rows of hidden -> [rows, vocab]. variants: [rows].
  void Head(const float* hidden, int64_t rows, std::span<const uint8_t> variants,
            std::vector<float>& logits);

  uint64_t state_bytes() const;  // resident cache memory
  // Sets every byte of the state, for benchmarks that need one with something in it.
  void FillState(std::byte value);
  uint64_t workspace_bytes() const;
  const Weights& weights() const;
  void set_observer(ActivationObserver* observer);

 private:
  struct Impl;
  explicit Transformer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lift
