// tokenizer.model: SentencePiece's own file, a protobuf message.
#pragma once

#include <string_view>

#include "server/tokenizer/tokenizer_spec.h"

namespace lift {

// BPE and unigram models. The spec has no BOS in front of texts (add_bos = false): folders and GGUF
// files say that. INVALID_ARGUMENT for what is not such a file, UNIMPLEMENTED for word and
// character models and for spaces as suffixes.
absl::StatusOr<TokenizerSpec> ParseSentencePieceModel(std::string_view bytes);

// Makes control pieces special added tokens, so that templates can name them.
void AddControlTokens(TokenizerSpec& spec);

}  // namespace lift
