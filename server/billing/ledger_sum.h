// What an invoice and an export are made of: memory x time summed over requests.
#pragma once

#include <cstdint>
#include <string>

#include "server/billing/meter.h"

namespace lift {

struct LedgerSum {
  int64_t period = 0;  // start, Unix seconds: of the hour, the day, or of everything asked for
  std::string tenant, variant;
  double lambda = 0;
  ByteMicros weight_byte_us = 0, kv_byte_us = 0;
  // Requests that began in the period and finished at this variant, and their tokens.
  int64_t requests = 0, prompt_tokens = 0, generated_tokens = 0;
};

}  // namespace lift
