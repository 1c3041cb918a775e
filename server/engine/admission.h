// What a request must satisfy before it may wait for a slot.
#pragma once

#include "server/engine/engine.h"

namespace lift {

struct AdmissionLimits {
  int64_t vocab_size = 0, max_context = 0;
  int64_t block_tokens = 1, num_blocks = 0;
};

inline constexpr size_t kMaxStopStrings = 64, kMaxStopStringBytes = 4096, kMaxRequestIdBytes = 256,
                        kMaxCacheSaltBytes = 256;

// INVALID_ARGUMENT naming the field. Pure; the precision part is the router's to check.
absl::Status ValidateRequest(const EngineRequest& request, const AdmissionLimits& limits);

}  // namespace lift
