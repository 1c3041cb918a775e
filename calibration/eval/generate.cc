#include "calibration/eval/generate.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"

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
  return options.sampling.Validate(vocab);
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> GenerateTokens(StepModel& model,
                                                    std::span<const int32_t> prompt,
                                                    const GenerateOptions& options) {
  LIFT_RETURN_IF_ERROR(CheckRequest(model, prompt, options));
  std::vector<int32_t> blocks(static_cast<size_t>(model.num_blocks()));
  std::iota(blocks.begin(), blocks.end(), 0);
  TokenHistory history;
  history.AddPrompt(prompt);
  std::vector<float> logits;
  SequenceChunk chunk;
  chunk.blocks = blocks;
  const auto step = [&](std::span<const int32_t> tokens, int variant,
                        SequenceChunk::Logits wanted) {
    chunk.tokens = tokens;
    chunk.variant = variant;
    chunk.logits = wanted;
    model.Step({&chunk, 1}, logits);
    chunk.position += static_cast<int64_t>(tokens.size());
  };
  while (!prompt.empty()) {
    const auto part = prompt.first(std::min<size_t>(prompt.size(), kPrefillChunk));
    prompt = prompt.subspan(part.size());
    step(part, options.prefill_variant,
         prompt.empty() ? SequenceChunk::Logits::kLast : SequenceChunk::Logits::kNone);
  }
  std::vector<int32_t> answer;
  for (int64_t i = 0;; ++i) {
    const int32_t id = Sample(logits, options.sampling, history, i).id;
    if (id < 0) return absl::InternalError("the model gave no finite logit to choose a token from");
    answer.push_back(id);
    const bool stop =
        std::find(options.stop_ids.begin(), options.stop_ids.end(), id) != options.stop_ids.end();
    if (stop || i + 1 == options.max_new_tokens) break;
    history.AddGenerated(id);
    step({&answer.back(), 1}, options.variant, SequenceChunk::Logits::kLast);
  }
  return answer;
}

}  // namespace lift
