#include "calibration/eval/generate.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "router/router.h"
#include "server/engine/stop_matcher.h"
#include "server/engine/variant_views.h"

namespace lift {
namespace {

constexpr int64_t kPrefillChunk =
    256;  // tokens of the prompt in one step; the result does not depend on it

absl::Status CheckRequest(const StepModel& model, std::span<const int32_t> prompt,
                          const GenerateOptions& options) {
  const int64_t vocab = model.vocab_size();
  const int64_t room = std::min(model.max_context(), model.num_blocks() * model.block_tokens());
  if (prompt.empty()) return absl::InvalidArgumentError("the prompt has no tokens");
  for (int32_t id : prompt) {
    if (id < 0 || id >= vocab) {
      return absl::InvalidArgumentError(
          absl::StrCat("token ", id, " is outside the vocabulary of ", vocab));
    }
  }
  if (options.max_new_tokens < 1 ||
      static_cast<int64_t>(prompt.size()) > room - options.max_new_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("the prompt has ", prompt.size(), " tokens and ",
                                                   options.max_new_tokens,
                                                   " are asked for; the context holds ", room));
  }
  if (options.min_new_tokens < 0 || options.min_new_tokens > options.max_new_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("min_new_tokens is ", options.min_new_tokens,
                                                   "; it must be from 0 to max_new_tokens"));
  }
  if (options.tokenizer == nullptr && (options.constraint || !options.stop_strings.empty())) {
    return absl::InvalidArgumentError("stop strings and constraints need the tokenizer");
  }
  return options.sampling.Validate(vocab);
}

bool Contains(std::span<const int32_t> ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

// Draws an answer's tokens and knows when it ends.
class Answer {
 public:
  Answer(std::span<const int32_t> prompt, const GenerateOptions& options)
      : options_(options), stops_(options.stop_strings) {
    history_.AddPrompt(prompt);
    if (options.tokenizer != nullptr) decoder_.emplace(*options.tokenizer);
    if (options.constraint == nullptr) return;
    state_ = options.constraint->start();
    for (const int32_t id : options.stop_ids) {
      if (!IsTextToken(*options.tokenizer, id)) controls_.push_back(id);
    }
  }

  // False if there is no token to draw.
  bool Draw(std::span<const float> logits) {
    const auto step = static_cast<int64_t>(tokens.size());
    std::span<const int32_t> banned;
    if (step < options_.min_new_tokens) banned = options_.stop_ids;
    TokenMask mask;
    if (options_.constraint != nullptr) {
      mask.words = options_.constraint->Allowed(state_);
      if (options_.constraint->Accepts(state_)) mask.also = controls_;
    }
    const TokenMask* allowed = options_.constraint != nullptr ? &mask : nullptr;
    int32_t id = Sample(logits, options_.sampling, history_, step, banned, allowed).id;
    if (id < 0 && allowed != nullptr) {
      id = Sample(logits, options_.sampling, history_, step, {}, allowed).id;
    }
    if (id < 0) return false;
    tokens.push_back(id);
    history_.AddGenerated(id);
    ended = Ends(id);
    return true;
  }

  std::vector<int32_t> tokens;
  bool ended = false;

 private:
  bool Ends(int32_t id) {
    const auto count = static_cast<int64_t>(tokens.size());
    if (Contains(options_.stop_ids, id) || count == options_.max_new_tokens) return true;
    if (!decoder_) return false;
    const std::string text = decoder_->Push(id);
    if (count >= options_.min_new_tokens && stops_.Push(text).matched >= 0) return true;
    if (options_.constraint == nullptr) return false;
    state_ = options_.constraint->Advance(state_, id);
    return options_.constraint->Complete(state_);
  }

  const GenerateOptions& options_;
  TokenHistory history_;
  StopMatcher stops_;
  std::optional<StreamDecoder> decoder_;
  int32_t state_ = 0;
  std::vector<int32_t> controls_;  // end tokens that are no text
};

}  // namespace

absl::StatusOr<std::vector<int32_t>> GenerateTokens(StepModel& model,
                                                    std::span<const int32_t> prompt,
                                                    const GenerateOptions& options) {
  LIFT_RETURN_IF_ERROR(CheckRequest(model, prompt, options));
  std::vector<int32_t> blocks(static_cast<size_t>(model.num_blocks()));
  std::iota(blocks.begin(), blocks.end(), 0);
  Answer answer(prompt, options);
  std::vector<float> logits;
  SequenceChunk chunk;
  chunk.blocks = blocks;
  const bool read_as_prompt = ReadAsPrompt(static_cast<int64_t>(prompt.size()));
  const auto step = [&](std::span<const int32_t> tokens, int variant,
                        SequenceChunk::Logits wanted) {
    chunk.tokens = tokens;
    chunk.variant = variant;
    chunk.logits = wanted;
    chunk.prefill = answer.tokens.empty() && read_as_prompt;
    model.Step({&chunk, 1}, logits);
    chunk.position += static_cast<int64_t>(tokens.size());
  };
  while (!prompt.empty()) {
    const auto part = prompt.first(std::min<size_t>(prompt.size(), kPrefillChunk));
    prompt = prompt.subspan(part.size());
    step(part, options.prefill_variant,
         prompt.empty() ? SequenceChunk::Logits::kLast : SequenceChunk::Logits::kNone);
  }
  const std::vector<router::VariantView> views = ViewsOf(model.variants());
  router::Escalation escalation(options.escalation);
  int variant = options.variant;
  for (;;) {
    if (!answer.tokens.empty()) variant = escalation.Next(variant, logits, {}, views);
    if (!answer.Draw(logits)) {
      return absl::InternalError("the model gave no finite logit to choose a token from");
    }
    if (answer.ended) return std::move(answer.tokens);
    step({&answer.tokens.back(), 1}, variant, SequenceChunk::Logits::kLast);
  }
}

}  // namespace lift
