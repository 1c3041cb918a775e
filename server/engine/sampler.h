// Sampling of the next token from logits. Pure and seeded: same logits, parameters, history and
// seed give the same token.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "kernels/base/status.h"

namespace lift {

inline constexpr int kMaxTopLogprobs = 100;

struct SamplingParams {
  double temperature = 0;  // 0 = greedy (ties: lowest id)
  int64_t top_k = 0;       // 0 = off
  double top_p = 1, min_p = 0;
  double repetition_penalty = 1, presence_penalty = 0, frequency_penalty = 0;
  uint64_t seed = 0;
  std::map<int32_t, float> logit_bias = {};
  int top_logprobs = -1;  // -1 = no logprobs; else the chosen token's and this many best ones
  // INVALID_ARGUMENT naming the field and its allowed range.
  absl::Status Validate(int64_t vocab_size) const;
};

struct TokenLogprob {
  int32_t id = 0;
  float logprob = 0;
};

struct SampledToken {
  int32_t id = 0;
  float logprob = 0;  // of the model's own distribution (before temperature and filters)
  std::vector<TokenLogprob> top;
};

// Counts for the penalties: prompt tokens count for repetition only.
class TokenHistory {
 public:
  void AddPrompt(std::span<const int32_t> ids);
  void AddGenerated(int32_t id);
  struct Count {
    int32_t prompt = 0, generated = 0;
  };
  const std::map<int32_t, Count>& counts() const { return counts_; }

 private:
  std::map<int32_t, Count> counts_;
};

// Which tokens may be drawn: those with their bit in `words` set (tokens past its end are not), and
// `also`.
struct TokenMask {
  std::span<const uint64_t> words;
  std::span<const int32_t> also;
};

// Order: repetition penalty (over prompt + generated; a positive logit is divided by it, a negative
// one multiplied, as in Hugging Face), presence and frequency penalties (over generated,
// subtracted, as in OpenAI), logit_bias, ids that are not in `allowed` (null: all) or `banned`
// removed, temperature, top-k, top-p (of what top-k left), min-p (of the best probability). Ties
// are kept and broken by lowest id. step: index of the generated token; random numbers are a
// counter-based function of (seed, step, id), so a token does not depend on batch, preemption or
// what was sampled elsewhere, and two distributions that are `d` apart (total variation) draw the
// same one with probability (1 - d) / (1 + d) or more. NaN logits are treated as -inf. The id is -1
// when no token has a logit above -inf. Logprobs are computed only if params.top_logprobs >= 0.
SampledToken Sample(std::span<const float> logits, const SamplingParams& params,
                    const TokenHistory& history, int64_t step, std::span<const int32_t> banned = {},
                    const TokenMask* allowed = nullptr);

// A given token with its log-probability and the `count` best ones.
SampledToken LogprobsOf(std::span<const float> logits, int32_t id, int count);

}  // namespace lift
