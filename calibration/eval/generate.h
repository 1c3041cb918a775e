// Generation without a server, token for token what the server gives: the whole prompt is read at
// one variant (the finest, as the server does), then tokens are decoded at another.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/base/status.h"
#include "server/constraint/constraint.h"
#include "server/engine/sampler.h"
#include "server/model/step_model.h"
#include "server/tokenizer/tokenizer.h"

namespace lift {

struct GenerateOptions {
  int variant = 0;
  int prefill_variant = 0;
  int64_t max_new_tokens = 128;
  SamplingParams sampling;
  std::vector<int32_t>
      stop_ids;  // generation ends with the first of these, which is the answer's last
  int64_t min_new_tokens = 0;             // no end before; yields to a constraint
  std::vector<std::string> stop_strings;  // generation ends with the token that completes one
  std::shared_ptr<const CompiledConstraint> constraint = nullptr;
  double escalation = 0;  // see router::Escalation; rises from `variant`, among the model's
  const Tokenizer* tokenizer = nullptr;  // needed with stop strings or a constraint
};

// `prompt` and the answer must fit the model's context and state pool (INVALID_ARGUMENT).
absl::StatusOr<std::vector<int32_t>> GenerateTokens(StepModel& model,
                                                    std::span<const int32_t> prompt,
                                                    const GenerateOptions& options);

}  // namespace lift
