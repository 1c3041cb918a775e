// Text <-> token ids, identical to Hugging Face `tokenizers` for byte-level BPE and to
// `sentencepiece` for its BPE and unigram models.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/status.h"
#include "server/tokenizer/tokenizer_spec.h"

namespace lift {

// Immutable; thread-safe.
class Tokenizer {
 public:
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> Create(TokenizerSpec spec);
  ~Tokenizer();

  struct EncodeOptions {
    bool add_special = true;    // BOS/EOS as the model wants them
    bool parse_special = true;  // special tokens written in the text become their ids (chat
                                // templates); false = plain text
  };
  // INVALID_ARGUMENT if text is not valid UTF-8 (names the byte offset).
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, EncodeOptions options) const;
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text) const {
    return Encode(text, EncodeOptions{});
  }

  // Bytes of the ids; may end inside a UTF-8 sequence. Ids out of range: INVALID_ARGUMENT.
  absl::StatusOr<std::string> DecodeBytes(std::span<const int32_t> ids, bool skip_special) const;
  // As DecodeBytes, with incomplete or invalid sequences replaced by U+FFFD: always valid UTF-8.
  absl::StatusOr<std::string> Decode(std::span<const int32_t> ids, bool skip_special) const;
  // Raw bytes of one token ("" for special tokens when skip_special).
  std::string_view TokenBytes(int32_t id) const;
  bool IsSpecial(int32_t id) const;
  int64_t vocab_size() const;
  const TokenizerSpec& spec() const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Incremental detokenization for one stream: bytes in, only complete UTF-8 out.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = true)
      : tokenizer_(tokenizer), skip_special_(skip_special) {}
  // Text that became complete with this token (may be empty).
  std::string Push(int32_t id);
  // What is left at the end, incomplete sequences as U+FFFD.
  std::string Flush();

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  std::string pending_;
};

}  // namespace lift
