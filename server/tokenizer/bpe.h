// Byte-pair merging of one pre-token.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "server/tokenizer/tokenizer_spec.h"

namespace lift {

// Immutable; thread-safe. O(n log n) in the length of a pre-token.
class BpeModel {
 public:
  // INVALID_ARGUMENT if a merge names a token that is not in the vocabulary.
  static absl::StatusOr<BpeModel> Create(const TokenizerSpec& spec);

  // Working memory, reused between calls of one thread.
  struct Scratch {
    struct Symbol {
      int32_t id, previous,
          next;  // next of the last one and previous of the first one: -1; id -1: merged away
    };
    struct Merge {
      int32_t rank, position, left, right,
          merged;  // left, right: ids when queued, to notice stale entries
    };
    std::vector<Symbol> symbols;
    std::vector<Merge> heap;
  };
  // Appends the ids of `piece` (raw bytes, not the byte-level alphabet).
  void Encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const;

 private:
  struct Target {
    int32_t rank, merged;
  };
  static uint64_t Key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  void LoadSymbols(std::string_view piece, Scratch& scratch) const;
  void Queue(Scratch& scratch, int32_t position) const;

  absl::flat_hash_map<uint64_t, Target> merges_;
  absl::flat_hash_map<std::string, int32_t>
      whole_;             // raw bytes -> id; filled only for ignore_merges
  int32_t byte_id_[256];  // -1: the vocabulary lacks this byte
  int32_t unk_id_ = -1;
  bool fuse_unk_ = false;
};

}  // namespace lift
