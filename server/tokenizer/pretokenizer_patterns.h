// The pre-tokenizer patterns of published models, and the names GGUF files give them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "server/tokenizer/tokenizer_spec.h"

namespace lift {

// GPT-2's pattern: what ByteLevel(use_regex = true) means.
extern const char kGpt2Pattern[];

struct PreTokenizerRecipe {
  std::vector<TokenizerSpec::Split> splits;
  bool ignore_merges = false;
  bool add_bos = false;  // when the file does not say
  std::string normalizer;
};

// By "tokenizer.ggml.pre"; UNIMPLEMENTED names an unknown one.
absl::StatusOr<PreTokenizerRecipe> PreTokenizerByGgufName(std::string_view name);

}  // namespace lift
