#include "tests/bench/serve/workload.h"

#include <algorithm>

namespace lift::bench {

absl::StatusOr<Workload> Workload::Make(const ServeFlags& flags, int64_t vocab_size,
                                        int64_t max_context) {
  Workload out;
  auto prompt = LengthDistribution::Parse(flags.prompt_tokens);
  auto output = LengthDistribution::Parse(flags.output_tokens);
  if (!prompt.ok()) return prompt.status();
  if (!output.ok()) return output.status();
  out.flags_ = flags;
  out.prompt_ = *prompt;
  out.output_ = *output;
  out.vocab_size_ = vocab_size;
  out.max_context_ = max_context;
  out.random_.seed(flags.seed);
  return out;
}

PlannedRequest Workload::Next() {
  PlannedRequest request;
  if (flags_.rate > 0) {
    clock_ += std::exponential_distribution<double>(flags_.rate)(random_);
    request.start_seconds = clock_;
  }
  const int64_t prompt = std::min(prompt_.Draw(random_), max_context_ - 1);
  // Control tokens sit at the ends of most vocabularies.
  std::uniform_int_distribution<int32_t> token(static_cast<int32_t>(vocab_size_ / 8),
                                               static_cast<int32_t>(vocab_size_ * 7 / 8));
  for (int64_t i = 0; i < prompt; ++i) request.prompt.push_back(token(random_));
  request.output_tokens = std::min(output_.Draw(random_), max_context_ - prompt);
  if (!flags_.tenants.empty()) {
    request.tenant = flags_.tenants[random_() % flags_.tenants.size()];
  }
  if (std::uniform_real_distribution<double>(0, 1)(random_) < flags_.cancel_fraction) {
    request.cancel_after =
        std::uniform_int_distribution<int64_t>(0, request.output_tokens - 1)(random_);
  }
  return request;
}

}  // namespace lift::bench
