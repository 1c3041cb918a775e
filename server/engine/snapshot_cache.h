// Finds copies of a recurrent state as it was after a prefix.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "server/engine/state_pool.h"

namespace lift {

// A snapshot is named by the salt, the tokens of its prefix and the precision each was computed at,
// compared in full. Any of them stands alone: nothing is lost with a shorter one. They lie in
// blocks of the pool that nobody holds, and leave it least recently used first (see BlockPool).
// Engine thread only; `pool` must outlive it and have no other evictor.
class SnapshotCache {
 public:
  explicit SnapshotCache(BlockPool& pool);

  struct Match {
    int64_t tokens = 0;  // of the prefix; 0 = none
    int32_t block = -1;
  };
  // The longest prefix of `step`, 2 `step`, ... tokens, shorter than all of them.
  Match Longest(std::string_view salt, std::span<const int32_t> tokens,
                std::span<const uint8_t> variants, int64_t step) const;
  // Whether there is one after exactly these tokens.
  bool Has(std::string_view salt, std::span<const int32_t> tokens,
           std::span<const uint8_t> variants) const;
  // `block`, held by the caller, has the state after these tokens. Two contents with one hash: the
  // first one stays.
  void Insert(std::string_view salt, std::span<const int32_t> tokens,
              std::span<const uint8_t> variants, int32_t block);
  // From now on the most recently used.
  void Touch(const Match& match);
  int64_t size() const { return static_cast<int64_t>(entries_.size()); }

 private:
  struct Entry {
    std::string salt;
    std::vector<int32_t> tokens;
    std::vector<uint8_t> variants;
    int32_t block = 0;
  };
  int32_t Find(uint64_t hash, std::string_view salt, std::span<const int32_t> tokens,
               std::span<const uint8_t> variants) const;  // its block, -1 without

  BlockPool& pool_;
  absl::flat_hash_map<uint64_t, Entry> entries_;
  std::vector<uint64_t> hashes_;  // [block], of what it holds
};

}  // namespace lift
