// What the router is trained on and judged by: for each prompt the finest variant's own answer, and
// what every variant makes of each of its tokens. The model labels its prompts itself.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "calibration/router/prompts.h"
#include "kernels/base/status.h"
#include "kernels/base/thread_pool.h"
#include "router/router.h"
#include "server/model/step_model.h"

namespace lift {

// One prompt. A position is an answer's token after which another one was drawn, as its first
// token comes from the prompt, which every request reads at the finest variant.
struct PromptTrace {
  std::string kind, source, language;
  router::TextFeatures text;
  router::PrefillSignals prefill;
  int64_t positions = 0;
  // [variants, positions], coarsest first, the answer's earlier tokens computed at the same
  // variant.
  std::vector<float> kl;        // nats, KL(finest || variant) of the next token's distribution
  std::vector<float> entropy;   // nats, of the variant's distribution
  std::vector<uint8_t> agrees;  // 1 = the finest variant's most likely token is this one's, too
  // The token that the variant draws there, with the answer's own random numbers: a guess is right
  // where the guessing and the verifying variant draw the same. Empty in files of older versions.
  std::vector<int32_t> draws;
  // [variants], nats: mean KL to the finest of an answer's second half that the finest variant
  // computes on state which this variant wrote in the first half. Empty if not asked for.
  std::vector<float> kept;
  int64_t half() const { return positions / 2; }
  double MeanKl(size_t variant) const;
  double Agreement(size_t variant) const;
};

struct TraceVariant {
  std::string name;
  double lambda = 0, bits_per_weight = 0;
  uint64_t plane_bytes = 0;  // what decoding one token reads of the planes
  double kl = -1;            // as calibrated; -1 = not measured
};

struct TraceSet {
  std::string weights_sha256;
  std::vector<TraceVariant> variants;  // ascending precision; the last one is the reference
  double temperature = 0;              // that answers were drawn at
  uint64_t seed = 0;
  std::vector<PromptTrace> prompts;
};

struct TraceOptions {
  int64_t max_new_tokens = 48;  // where a prompt names no number, and at most
  // 1 draws answers from the model's own distribution: the mean KL over positions is then an
  // unbiased estimate of the divergence between whole answers, per token. 0 is greedy.
  double temperature = 1;
  uint64_t seed = 1;      // of the draws; prompt i uses seed + i
  int first_variant = 0;  // coarser ones are not scored; PromptTrace's variants begin with it
  // Score answers with the roundings of decoding instead of those of reading a prompt: the same KL
  // within a few percent, several times slower.
  bool exact = false;
  bool kept_state = false;  // measure PromptTrace::kept, too
  int64_t batch = 16;       // prompts decoded together; the result does not depend on it
  std::vector<int32_t> stop_ids = {};
  std::function<void(int64_t done, int64_t prompts)> progress = {};
};

// Tokens of the model's state that tracing `batch` prompts needs at most.
int64_t TraceTokens(std::span<const RouterPrompt> prompts, const TraceOptions& options);

// Reads every prompt at the finest variant, draws an answer from it and scores that answer at every
// variant. A prompt whose answer is shorter than two tokens has no positions and is left out. The
// model must have room for TraceTokens() in its state. `pool` must be the one the model runs on, or
// idle. INVALID_ARGUMENT for a prompt that the context does not hold.
absl::StatusOr<std::vector<PromptTrace>> CollectTraces(StepModel& model, ThreadPool& pool,
                                                       std::span<const RouterPrompt> prompts,
                                                       const TraceOptions& options);

// A file of traces (CBOR), so that training and judging need not run the model again.
absl::Status SaveTraces(const std::string& path, const TraceSet& traces);
// INVALID_ARGUMENT for anything that SaveTraces did not write.
absl::StatusOr<TraceSet> LoadTraces(const std::string& path);

}  // namespace lift
