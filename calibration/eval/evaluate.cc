#include "calibration/eval/evaluate.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "calibration/eval/logit_stats.h"
#include "server/model/model_layout.h"
#include "server/model/transformer.h"

namespace lift {
namespace {

constexpr int64_t kSliceRows = 128;  // positions whose logits are in memory at once

// One model, run window by window.
class WindowRunner {
 public:
  static absl::StatusOr<WindowRunner> Create(std::shared_ptr<const Weights> weights,
                                             Backend& backend, int64_t context, KvFormat kv_format,
                                             bool prefill) {
    Transformer::Options options;
    options.kv_format = kv_format;
    options.num_blocks = layout::StateBlocks(weights->config(), context, options.block_tokens);
    LIFT_ASSIGN_OR_RETURN(auto model, Transformer::Create(std::move(weights), backend, options));
    return WindowRunner(std::move(model), prefill);
  }

  // hidden: [tokens, hidden_size] after the last layer.
  void Run(std::span<const int32_t> tokens, int variant, std::vector<float>& hidden) {
    SequenceChunk chunk;
    chunk.tokens = tokens;
    chunk.blocks = blocks_;
    chunk.variant = variant;
    chunk.prefill = prefill_;
    const std::span<const SequenceChunk> chunks(&chunk, 1);
    model_->Embed(chunks, hidden);
    for (int64_t layer = 0; layer < model_->weights().config().num_layers; ++layer) {
      model_->RunLayer(layer, chunks, hidden);
    }
  }
  // logits: [rows, vocab] of rows [first, first + rows) of `hidden`.
  void Logits(const std::vector<float>& hidden, int64_t first, int64_t rows, int variant,
              std::vector<float>& logits) {
    const std::vector<uint8_t> variants(static_cast<size_t>(rows), static_cast<uint8_t>(variant));
    model_->Head(hidden.data() + first * model_->weights().config().hidden_size, rows, variants,
                 logits);
  }

 private:
  WindowRunner(std::unique_ptr<Transformer> model, bool prefill)
      : model_(std::move(model)),
        blocks_(static_cast<size_t>(model_->num_blocks())),
        prefill_(prefill) {
    std::iota(blocks_.begin(), blocks_.end(), 0);
  }
  std::unique_ptr<Transformer> model_;
  std::vector<int32_t> blocks_;
  bool prefill_;
};

// Sums over the positions of one window.
struct Sums {
  double nll = 0, kl = 0;
  int64_t agreements = 0;
};

// How unlikely the model found what came next.
double NegativeLogLikelihood(std::span<const float> row, const LogitStats& stats, int32_t target) {
  return stats.log_sum_exp - static_cast<double>(row[static_cast<size_t>(target)]);
}

struct ReferenceRows {
  std::vector<float> logits;      // [rows, vocab]; empty without a reference
  std::vector<LogitStats> stats;  // [rows]
};

class Evaluator {
 public:
  Evaluator(WindowRunner model, std::optional<WindowRunner> reference, int reference_variant,
            int64_t vocab, std::vector<int> variants, ThreadPool& pool)
      : model_(std::move(model)),
        reference_(std::move(reference)),
        reference_variant_(reference_variant),
        vocab_(static_cast<size_t>(vocab)),
        variants_(std::move(variants)),
        pool_(pool),
        hidden_(variants_.size()) {}

  // Sums of each variant over the window.
  std::vector<Sums> Window(std::span<const int32_t> tokens) {
    if (reference_) reference_->Run(tokens, reference_variant_, reference_hidden_);
    for (size_t v = 0; v < variants_.size(); ++v) model_.Run(tokens, variants_[v], hidden_[v]);
    std::vector<Sums> sums(variants_.size());
    reference_nll_ = 0;
    const auto scored = static_cast<int64_t>(tokens.size()) - 1;
    for (int64_t first = 0; first < scored; first += kSliceRows) {
      const int64_t rows = std::min(kSliceRows, scored - first);
      const auto targets =
          tokens.subspan(static_cast<size_t>(first) + 1, static_cast<size_t>(rows));
      ReferenceSlice(first, targets);
      for (size_t v = 0; v < variants_.size(); ++v) {
        model_.Logits(hidden_[v], first, rows, variants_[v], logits_);
        AddSlice(targets, sums[v]);
      }
    }
    return sums;
  }

  double reference_nll() const { return reference_nll_; }  // summed over the last window

 private:
  std::span<const float> Row(const std::vector<float>& logits, size_t row) const {
    return std::span(logits).subspan(row * vocab_, vocab_);
  }

  void ReferenceSlice(int64_t first, std::span<const int32_t> targets) {
    if (!reference_) return;
    const auto rows = static_cast<int64_t>(targets.size());
    reference_->Logits(reference_hidden_, first, rows, reference_variant_, reference_rows_.logits);
    reference_rows_.stats.resize(static_cast<size_t>(rows));
    pool_.ParallelFor(rows, 1, [&](int64_t begin, int64_t end, int) {
      for (auto r = static_cast<size_t>(begin); r < static_cast<size_t>(end); ++r) {
        reference_rows_.stats[r] = ComputeLogitStats(Row(reference_rows_.logits, r));
      }
    });
    for (size_t r = 0; r < targets.size(); ++r) {
      reference_nll_ += NegativeLogLikelihood(Row(reference_rows_.logits, r),
                                              reference_rows_.stats[r], targets[r]);
    }
  }

  // Rows are scored in parallel and summed in order, so the result does not depend on threads.
  void AddSlice(std::span<const int32_t> targets, Sums& sums) {
    std::vector<Sums> rows(targets.size());
    pool_.ParallelFor(
        static_cast<int64_t>(targets.size()), 1, [&](int64_t begin, int64_t end, int) {
          for (auto r = static_cast<size_t>(begin); r < static_cast<size_t>(end); ++r) {
            const std::span<const float> row = Row(logits_, r);
            const LogitStats stats = ComputeLogitStats(row);
            rows[r].nll = NegativeLogLikelihood(row, stats, targets[r]);
            if (!reference_) continue;
            rows[r].kl =
                KlDivergence(Row(reference_rows_.logits, r), reference_rows_.stats[r], row, stats);
            rows[r].agreements = reference_rows_.stats[r].best == stats.best;
          }
        });
    for (const Sums& row : rows) {
      sums.nll += row.nll;
      sums.kl += row.kl;
      sums.agreements += row.agreements;
    }
  }

  WindowRunner model_;
  std::optional<WindowRunner> reference_;
  int reference_variant_;
  size_t vocab_;
  std::vector<int> variants_;
  ThreadPool& pool_;
  std::vector<std::vector<float>> hidden_;  // by variant
  std::vector<float> reference_hidden_, logits_;
  ReferenceRows reference_rows_;
  double reference_nll_ = 0;
};

absl::Status CheckInputs(const Weights& weights, const Weights* reference,
                         std::span<const int32_t> text, std::span<const int> variants) {
  const int64_t vocab = weights.config().vocab_size;
  if (reference && reference->config().vocab_size != vocab) {
    return absl::InvalidArgumentError(
        absl::StrCat("the reference has a vocabulary of ", reference->config().vocab_size,
                     " tokens and the model one of ", vocab,
                     "; give the checkpoint that the model was made from"));
  }
  for (int32_t id : text) {
    if (id < 0 || id >= vocab) {
      return absl::InvalidArgumentError(
          absl::StrCat("token ", id, " is outside the model's vocabulary of ", vocab));
    }
  }
  for (int variant : variants) {
    if (variant < 0 || static_cast<size_t>(variant) >= weights.variants().size()) {
      return absl::InvalidArgumentError("the model has no variant of that number");
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<std::vector<int32_t>> CutWindows(const ModelConfig& config,
                                             std::span<const int32_t> text, int64_t context) {
  const bool bos = config.add_bos && config.bos_token_id >= 0;
  const auto step =
      static_cast<size_t>(std::max<int64_t>(std::min(context, config.max_context) - bos, 1));
  std::vector<std::vector<int32_t>> windows;
  for (size_t begin = 0; begin < text.size(); begin += step) {
    const auto part = text.subspan(begin, std::min(step, text.size() - begin));
    std::vector<int32_t> window(part.begin(), part.end());
    if (bos) window.insert(window.begin(), static_cast<int32_t>(config.bos_token_id));
    if (window.size() > 1) windows.push_back(std::move(window));
  }
  return windows;
}

absl::StatusOr<Evaluation> EvaluateVariants(std::shared_ptr<const Weights> weights,
                                            std::shared_ptr<const Weights> reference,
                                            std::span<const int32_t> text, Backend& backend,
                                            ThreadPool& pool, const EvaluateOptions& options) {
  std::vector<int> variants = options.variants;
  if (variants.empty()) {
    variants.resize(weights->variants().size());
    std::iota(variants.begin(), variants.end(), 0);
  }
  if (options.context < 2)
    return absl::InvalidArgumentError("the context must be at least 2 tokens");
  if (options.max_tokens > 0)
    text = text.first(std::min(text.size(), static_cast<size_t>(options.max_tokens)));
  LIFT_RETURN_IF_ERROR(CheckInputs(*weights, reference.get(), text, variants));
  const ModelConfig& config = weights->config();
  int64_t context = std::min(options.context, config.max_context);
  if (reference) context = std::min(context, reference->config().max_context);
  const auto windows = CutWindows(config, text, context);
  if (windows.empty())
    return absl::InvalidArgumentError("the text is too short: it has no token to score");

  LIFT_ASSIGN_OR_RETURN(
      WindowRunner model,
      WindowRunner::Create(weights, backend, context, options.kv_format, options.prefill));
  std::optional<WindowRunner> reference_runner;
  const int reference_variant = reference ? static_cast<int>(reference->variants().size()) - 1 : 0;
  if (reference) {
    LIFT_ASSIGN_OR_RETURN(reference_runner,
                          WindowRunner::Create(reference, backend, context, KvFormat::kF32, false));
  }
  Evaluator evaluator(std::move(model), std::move(reference_runner), reference_variant,
                      config.vocab_size, variants, pool);

  Evaluation result;
  result.text_tokens = static_cast<int64_t>(text.size());
  result.windows = static_cast<int64_t>(windows.size());
  std::vector<Sums> totals(variants.size());
  double reference_nll = 0;
  for (int variant : variants) result.variants.push_back({variant, 0, -1, -1, {}});
  for (size_t w = 0; w < windows.size(); ++w) {
    const std::vector<Sums> sums = evaluator.Window(windows[w]);
    result.scored_tokens += static_cast<int64_t>(windows[w].size()) - 1;
    reference_nll += evaluator.reference_nll();
    for (size_t v = 0; v < sums.size(); ++v) {
      totals[v].nll += sums[v].nll;
      totals[v].kl += sums[v].kl;
      totals[v].agreements += sums[v].agreements;
      result.variants[v].window_nll.push_back(sums[v].nll);
    }
    if (options.progress) options.progress(static_cast<int64_t>(w) + 1, result.windows);
  }
  const auto scored = static_cast<double>(result.scored_tokens);
  if (reference) result.reference_perplexity = std::exp(reference_nll / scored);
  for (size_t v = 0; v < totals.size(); ++v) {
    result.variants[v].perplexity = std::exp(totals[v].nll / scored);
    if (!reference) continue;
    result.variants[v].kl = totals[v].kl / scored;
    result.variants[v].top1_agreement = static_cast<double>(totals[v].agreements) / scored;
  }
  return result;
}

}  // namespace lift
