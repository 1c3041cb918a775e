// Everything a tokenizer needs, in one serializable struct; stored in the lifted file as JSON.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/base/status.h"
#include "server/model/checkpoint/checkpoint.h"

namespace lift {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false, lstrip = false, rstrip = false, single_word = false, normalized = false;
};

// What SentencePiece models have instead of merges and a pre-tokenizer. Added tokens may follow the
// pieces in TokenizerSpec::tokens.
struct SentencePieceSpec {
  enum class Kind : uint8_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };
  std::vector<float> scores;   // [pieces]
  std::vector<Kind> kinds;     // [pieces]
  bool byte_fallback = false;  // unknown characters become the pieces of their bytes
  bool add_dummy_prefix = true, remove_extra_whitespaces = true, escape_whitespaces = true;
  std::string charsmap;  // compiled normalization rules, bytes; empty: none
};

struct TokenizerSpec {
  std::string type;  // "byte_level_bpe", "sentencepiece_bpe" or "sentencepiece_unigram"
  std::vector<std::string>
      tokens;  // [vocab], in byte-level alphabet; pieces with U+2581 for spaces
  SentencePieceSpec sentencepiece;
  std::vector<std::pair<std::string, std::string>> merges;  // by rank
  // Pre-tokenizer: applied in order; each splits the pieces of the one before.
  struct Split {
    std::string pattern;  // PCRE2 (UTF, UCP)
    std::string behavior =
        "isolated";  // isolated | removed | merged_with_previous | merged_with_next | contiguous
    bool invert = false;
  };
  std::vector<Split> splits;
  bool add_prefix_space = false;  // a space before every piece that does not start with one ...
  int32_t prefix_space_at = 0;    // ... as the pieces stand before splits[prefix_space_at]
  bool ignore_merges = false;     // whole piece in vocabulary wins before merging (Llama 3)
  std::string normalizer;         // "" | "nfc" | "nfkc" | "nfd" | "nfkd"
  std::vector<AddedToken> added_tokens;
  int32_t bos_id = -1, eos_id = -1, pad_id = -1;
  int32_t unk_id = -1;           // for bytes missing from the vocabulary; -1: they are dropped
  bool fuse_unk = false;         // a run of missing bytes is one unknown token
  std::vector<int32_t> eos_ids;  // every id that ends generation
  bool add_bos = false, add_eos = false;
  std::string chat_template;         // Jinja; empty = none
  std::string bos_token, eos_token;  // text, for templates

  std::string ToJson() const;
  static absl::StatusOr<TokenizerSpec> FromJson(const std::string& json);
};

// INVALID_ARGUMENT / UNIMPLEMENTED if the parts do not fit together: ids out of range or used
// twice, merges of tokens that are not there, sizes over the caps. Everything that makes a spec
// from outside calls it.
absl::Status ValidateTokenizerSpec(const TokenizerSpec& spec);

// Reads the tokenizer of a GGUF file or a Hugging Face folder. Unsupported kinds are refused by
// name.
absl::StatusOr<TokenizerSpec> LoadTokenizerSpec(const Checkpoint& checkpoint);

}  // namespace lift
