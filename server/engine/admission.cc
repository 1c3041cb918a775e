#include "server/engine/admission.h"

#include "absl/strings/str_cat.h"
#include "server/engine/state_pool.h"

namespace lift {
namespace {

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

absl::Status CheckPrompt(const EngineRequest& request, const AdmissionLimits& limits) {
  if (request.request_id.size() > kMaxRequestIdBytes) {
    return Invalid("request_id is ", request.request_id.size(), " bytes long; at most ",
                   kMaxRequestIdBytes, " are allowed");
  }
  if (request.choices < 1 || request.choices > kMaxChoices) {
    return Invalid("choices is ", request.choices, "; it must be between 1 and ", kMaxChoices);
  }
  if (request.prompt_logprobs < -1 || request.prompt_logprobs > kMaxTopLogprobs) {
    return Invalid("prompt_logprobs is ", request.prompt_logprobs,
                   "; it must be between -1 (off) and ", kMaxTopLogprobs);
  }
  if (request.cache.salt.size() > kMaxCacheSaltBytes) {
    return Invalid("cache.salt is ", request.cache.salt.size(), " bytes long; at most ",
                   kMaxCacheSaltBytes, " are allowed");
  }
  if (request.prompt.empty()) return Invalid("prompt is empty; send at least one token");
  for (size_t i = 0; i < request.prompt.size(); ++i) {
    const int32_t id = request.prompt[i];
    if (id < 0 || id >= limits.vocab_size) {
      return Invalid("prompt token ", i, " is ", id, "; token ids are between 0 and ",
                     limits.vocab_size - 1);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckLengths(const EngineRequest& request, const AdmissionLimits& limits) {
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  const int64_t new_tokens = request.stopping.max_new_tokens;
  if (new_tokens < 1) {
    return Invalid("stopping.max_new_tokens is ", new_tokens, "; it must be at least 1");
  }
  if (request.stopping.min_new_tokens < 0 || request.stopping.min_new_tokens > new_tokens) {
    return Invalid("stopping.min_new_tokens is ", request.stopping.min_new_tokens,
                   "; it must be between 0 and max_new_tokens (", new_tokens, ")");
  }
  if (prompt > limits.max_context || new_tokens > limits.max_context - prompt) {
    return Invalid("prompt (", prompt, " tokens) plus max_new_tokens (", new_tokens,
                   ") exceed the context of ", limits.max_context,
                   " tokens; shorten the prompt or lower max_new_tokens");
  }
  // The last generated token is never fed back, so its state needs no room.
  if (BlocksFor(prompt + new_tokens - 1, limits.block_tokens) > limits.num_blocks) {
    return Invalid("prompt (", prompt, " tokens) plus max_new_tokens (", new_tokens,
                   ") exceed the state pool of ", limits.num_blocks * limits.block_tokens,
                   " tokens; shorten the prompt or lower max_new_tokens");
  }
  return absl::OkStatus();
}

absl::Status CheckStops(const StoppingParams& stopping, int64_t vocab_size) {
  if (stopping.stop_strings.size() > kMaxStopStrings) {
    return Invalid("stopping.stop_strings has ", stopping.stop_strings.size(), " entries; at most ",
                   kMaxStopStrings, " are allowed");
  }
  for (const std::string& stop : stopping.stop_strings) {
    if (stop.empty() || stop.size() > kMaxStopStringBytes) {
      return Invalid("a stop string is ", stop.size(), " bytes long; it must be between 1 and ",
                     kMaxStopStringBytes);
    }
    if ((static_cast<unsigned char>(stop[0]) & 0xC0) == 0x80) {
      return Invalid("a stop string begins inside a UTF-8 character; send whole characters");
    }
  }
  for (const int32_t id : stopping.stop_token_ids) {
    if (id < 0 || id >= vocab_size) {
      return Invalid("stopping.stop_token_ids has ", id, "; token ids are between 0 and ",
                     vocab_size - 1);
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateRequest(const EngineRequest& request, const AdmissionLimits& limits) {
  LIFT_RETURN_IF_ERROR(CheckPrompt(request, limits));
  LIFT_RETURN_IF_ERROR(CheckLengths(request, limits));
  LIFT_RETURN_IF_ERROR(CheckStops(request.stopping, limits.vocab_size));
  return request.sampling.Validate(limits.vocab_size);
}

}  // namespace lift
