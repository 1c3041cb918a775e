// A parity report as a table with a verdict for people, and as JSON.
#pragma once

#include <string>

#include "server/audit/parity.h"

namespace lift::client {

struct ParityScope {
  ParityBy by = ParityBy::kTenant;
  bool served = true;    // lambda is the mean over each answer, not the router's choice
  int64_t left_out = 0;  // rows: pinned, or the server's own
  ParityOptions options = {};
};

std::string ParityText(const ParityReport& report, const ParityScope& scope);
std::string ParityJson(const ParityReport& report, const ParityScope& scope);

}  // namespace lift::client
