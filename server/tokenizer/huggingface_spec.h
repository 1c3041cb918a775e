// TokenizerSpec from the files of a Hugging Face folder.
#pragma once

#include <string>
#include <string_view>

#include "server/tokenizer/tokenizer_spec.h"

namespace lift {

// The texts of the files; empty = the folder has no such file.
struct HuggingFaceTokenizerFiles {
  std::string tokenizer;          // tokenizer.json
  std::string tokenizer_config;   // tokenizer_config.json
  std::string generation_config;  // generation_config.json: which ids end generation
  std::string chat_template;      // chat_template.jinja
};

// UNIMPLEMENTED names the component that is not supported, INVALID_ARGUMENT what is malformed.
absl::StatusOr<TokenizerSpec> ParseHuggingFaceTokenizer(const HuggingFaceTokenizerFiles& files);

// From the bytes of tokenizer.model and all but tokenizer.json of `files`.
absl::StatusOr<TokenizerSpec> ParseHuggingFaceSentencePiece(std::string_view model,
                                                            const HuggingFaceTokenizerFiles& files);

// tokenizer.json, or tokenizer.model where there is no tokenizer.json or one of an unsupported
// kind.
absl::StatusOr<TokenizerSpec> LoadHuggingFaceTokenizer(const std::string& folder);

}  // namespace lift
