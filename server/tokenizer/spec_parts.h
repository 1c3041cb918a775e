// The pieces that our own JSON form and tokenizer.json have in common.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "server/tokenizer/json_reader.h"
#include "server/tokenizer/tokenizer_spec.h"

namespace lift {

inline constexpr size_t kMaxTokenizerJsonBytes = 256u << 20;

// A list of "a b" strings or of ["a", "b"] pairs.
absl::StatusOr<std::vector<std::pair<std::string, std::string>>> ParseMerges(const Json& list);

// {"id", "content", "special", "lstrip", "rstrip", "single_word", "normalized"}
absl::StatusOr<AddedToken> ParseAddedToken(const Json& object);

// Splits "a b" at its only space; INVALID_ARGUMENT names the merge otherwise.
absl::StatusOr<std::pair<std::string, std::string>> ParseMerge(const std::string& merge);

}  // namespace lift
