// Perplexity, KL divergence and top-1 agreement of a model's variants on a text, by the graph that
// serves them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "kernels/base/thread_pool.h"
#include "server/model/weights.h"

namespace lift {

struct EvaluateOptions {
  int64_t context = 1024;               // tokens of a window, BOS included; capped by the model
  int64_t max_tokens = 0;               // of the text; 0 = all
  KvFormat kv_format = KvFormat::kF32;  // of the model; the reference keeps f32
  std::vector<int> variants;            // indices to evaluate; empty = all
  bool prefill = false;                 // as prompts are read, instead of as answers are decoded
  std::function<void(int64_t done, int64_t windows)> progress;
};

struct VariantScore {
  int variant = 0;
  double perplexity = 0;  // exp(mean negative log-likelihood)
  double kl = -1;         // mean KL(reference || variant) in nats; -1 without a reference
  double top1_agreement =
      -1;  // share of positions with the reference's most likely token; -1 without
  std::vector<double> window_nll;  // summed over each window's scored tokens
};

struct Evaluation {
  std::vector<VariantScore> variants;
  double reference_perplexity = -1;  // of the reference itself; -1 without one
  int64_t text_tokens = 0, scored_tokens = 0, windows = 0;
};

// Non-overlapping windows of at most `context` tokens. Where the model uses BOS each window begins
// with it (and holds context - 1 tokens of text). Every token but a window's first is scored; a
// last window with nothing to score is dropped.
std::vector<std::vector<int32_t>> CutWindows(const ModelConfig& config,
                                             std::span<const int32_t> text, int64_t context);

// Runs every variant teacher-forced over the windows. `reference` may be null; it must have the
// same vocabulary. Memory: one window's hidden states for each variant and logits of 128 positions.
// `pool` must be the one `backend` runs on, or idle.
absl::StatusOr<Evaluation> EvaluateVariants(std::shared_ptr<const Weights> weights,
                                            std::shared_ptr<const Weights> reference,
                                            std::span<const int32_t> text, Backend& backend,
                                            ThreadPool& pool, const EvaluateOptions& options);

}  // namespace lift
