// Flags about an answer that lift-client sends and lift-eval obeys by itself, so that both say the
// same with the same words.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kernels/base/status.h"

namespace lift {

// What the answer's text must be; at most one.
struct ConstraintFlags {
  std::string regex, json_schema, grammar;  // "@FILE" is read from there
  std::vector<std::string> choices;
  bool json_object = false;
};

// --regex, --json-schema, --grammar, --choice and --json-object.
void AddConstraintFlags(CLI::App& app, ConstraintFlags& flags);

// --logit-bias: "TOKEN_ID:BIAS" each. INVALID_ARGUMENT naming the one that is not.
absl::StatusOr<std::vector<std::pair<int32_t, float>>> ParseLogitBias(
    const std::vector<std::string>& entries);

}  // namespace lift
