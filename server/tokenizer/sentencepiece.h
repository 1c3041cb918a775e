// SentencePiece: normalization and segmentation of BPE and unigram models, identical to the
// original.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "server/tokenizer/tokenizer_spec.h"

namespace lift {

inline constexpr char kSentencePieceSpace[] = "\xE2\x96\x81";  // U+2581 stands for a space

// A double-array trie of replacements, as SentencePiece compiles its normalization rules.
class CharsMap {
 public:
  // Empty bytes: no rules. INVALID_ARGUMENT for what is not a compiled map.
  static absl::StatusOr<CharsMap> Parse(std::string_view bytes);
  // The longest rule that `text` begins with: how many bytes it takes (0: none) and what they
  // become.
  std::pair<size_t, std::string_view> Match(std::string_view text) const;

 private:
  std::vector<uint32_t> units_;
  std::string replacements_;  // each ends with a zero byte
};

// Immutable; thread-safe.
class SentencePieceModel {
 public:
  static absl::StatusOr<SentencePieceModel> Create(const TokenizerSpec& spec);
  // Appends the ids of `text` (valid UTF-8), as Encode of the original.
  void Encode(std::string_view text, std::vector<int32_t>& ids) const;
  // The text with its rules applied, spaces as U+2581.
  std::string Normalize(std::string_view text) const;

 private:
  struct Symbol;
  // Length of the longest user-defined piece that `text` begins with; 0: none.
  size_t MatchUserDefined(std::string_view text) const;
  std::pair<size_t, std::string_view> NormalizePrefix(std::string_view text) const;
  void EncodeBpe(std::string_view text, std::vector<int32_t>& ids) const;
  void EncodeUnigram(std::string_view text, std::vector<int32_t>& ids) const;
  void Emit(std::string_view piece, int32_t id, bool& after_unknown,
            std::vector<int32_t>& ids) const;
  int32_t FindPiece(std::string_view piece) const;  // mergeable ones; -1: none

  SentencePieceSpec spec_;
  bool unigram_ = false;
  int32_t unk_id_ = -1;
  CharsMap chars_;
  absl::flat_hash_map<std::string, int32_t> pieces_;    // normal, user-defined and unused
  absl::flat_hash_map<std::string, int32_t> reserved_;  // the others
  std::vector<size_t> user_lengths_;                    // of user-defined pieces, longest first
  std::vector<int32_t> byte_ids_;                       // [256] with byte fallback, else empty
  float least_score_ = 0, greatest_score_ = 0;          // of normal pieces
  // Unigram: a trie of the pieces. edges_[node << 8 | byte] = node.
  absl::flat_hash_map<uint64_t, int32_t> edges_;
  std::vector<int32_t> node_ids_;  // [nodes] piece that ends there; -1: none
};

// "<0x0A>" -> 10; -1 for anything else.
int BytePieceValue(std::string_view piece);

}  // namespace lift
