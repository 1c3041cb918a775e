// Everything between the configuration and a model ready to serve, built once and owned in one
// place.
#pragma once

#include <memory>

#include "kernels/backend.h"
#include "kernels/base/thread_pool.h"
#include "router/router.h"
#include "server/config/server_config.h"
#include "server/model/transformer.h"
#include "server/model_info.h"
#include "server/tokenizer/chat_template.h"
#include "server/tokenizer/tokenizer.h"

namespace lift {

// Shows a StepModel with only some of its variants, renumbered; prompts are then read at the finest
// of them. Borrows the model.
class VariantSubset : public StepModel {
 public:
  // `kept`: ascending indices into model.variants(), at least one.
  VariantSubset(StepModel& model, std::vector<int> kept);
  int64_t vocab_size() const override { return model_.vocab_size(); }
  int64_t max_context() const override { return model_.max_context(); }
  std::span<const LiftedVariant> variants() const override { return variants_; }
  int64_t block_tokens() const override { return model_.block_tokens(); }
  int64_t num_blocks() const override { return model_.num_blocks(); }
  bool reusable_state() const override { return model_.reusable_state(); }
  int64_t state_window() const override { return model_.state_window(); }
  void CopyState(int32_t from, int32_t to) override { model_.CopyState(from, to); }
  bool swappable_state() const override { return model_.swappable_state(); }
  void SaveBlock(int32_t block, std::span<std::byte> out) override { model_.SaveBlock(block, out); }
  void RestoreBlock(int32_t block, std::span<const std::byte> in) override {
    model_.RestoreBlock(block, in);
  }
  int64_t bytes_per_block() const override { return model_.bytes_per_block(); }
  StepStats Step(std::span<const SequenceChunk> chunks, std::vector<float>& logits) override;
  void Retain(std::span<const int> variants) override;

 private:
  StepModel& model_;
  const std::vector<int> kept_;
  std::vector<LiftedVariant> variants_;
  std::vector<SequenceChunk> renumbered_;  // reused between steps
};

// Indices of the named variants, ascending; all of them for no names. INVALID_ARGUMENT naming the
// unknown one and what there is.
absl::StatusOr<std::vector<int>> SelectVariants(std::span<const LiftedVariant> variants,
                                                const std::vector<std::string>& names);

// Bytes of `variants` (ascending, as served): fills in incremental bytes, returns what is resident
// for all of them together.
uint64_t FillResidentBytes(std::span<const LiftedVariant> variants,
                           std::vector<VariantInfo>& infos);

// Members are destroyed in reverse order: whoever borrows comes after what it borrows.
struct ServingModel {
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<Backend> backend;
  std::shared_ptr<Weights> weights;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const ChatTemplate>
      chat_template;  // null: the model has none, or one beyond our subset
  std::unique_ptr<Transformer> transformer;
  std::vector<int> kept;                 // served variants, as `weights` counts them
  std::unique_ptr<VariantSubset> model;  // what the engine runs
  ModelInfo info;
  router::RouterConfig router;  // the file's predictor under the configured policy
  std::string tuning;           // a sentence for the log: which CPU tuning it computes with
  std::string warning;          // one sentence for the log, e.g. why there is no chat template
};

// Opens, checks and builds. The error's sentence is for the person who typed the command.
absl::StatusOr<std::unique_ptr<ServingModel>> LoadServingModel(const ServerConfig& config);

}  // namespace lift
