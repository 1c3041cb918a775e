// TokenizerSpec from the metadata of a GGUF file.
#pragma once

#include "server/model/checkpoint/gguf.h"
#include "server/tokenizer/tokenizer_spec.h"

namespace lift {

// UNIMPLEMENTED names the tokenizer model or pre-tokenizer that is not supported, INVALID_ARGUMENT
// what is malformed.
absl::StatusOr<TokenizerSpec> ReadGgufTokenizer(const GgufFile& file);

}  // namespace lift
