// The "pre_tokenizer" of a tokenizer.json -> splits.
#pragma once

#include "server/tokenizer/json_reader.h"
#include "server/tokenizer/tokenizer_spec.h"

namespace lift {

// Fills splits, add_prefix_space and prefix_space_at. There must be a ByteLevel, as the last step;
// every other kind of pre-tokenizer is refused by name.
absl::Status ReadPreTokenizer(const Json* pre_tokenizer, TokenizerSpec& spec);

}  // namespace lift
