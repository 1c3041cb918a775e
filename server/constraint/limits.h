// Caps on constraints, so that none can hang the server or exhaust its memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "server/errors.h"

namespace lift {

inline constexpr size_t kMaxConstraintBytes = 64 << 10;  // of a pattern, schema, grammar, choices
inline constexpr size_t kMaxChoiceStrings = 1024;
inline constexpr int kMaxNesting = 64;         // of groups, schemas
inline constexpr int kMaxRepetitions = 10000;  // {m,n}, minItems, maxLength, ...

template <class... Parts>
absl::Status TooLarge(const Parts&... parts) {
  return WithReason(absl::InvalidArgumentError(
                        absl::StrCat("the constraint is too large: ", parts..., "; simplify it")),
                    "CONSTRAINT_TOO_LARGE");
}

}  // namespace lift
