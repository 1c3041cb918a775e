// Finds the state of prefixes that were already computed: a chain over full blocks of tokens.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "server/engine/state_pool.h"

namespace lift {

// How far along the chain a sequence is. `salt` separates those who may not share: equal tokens
// under another salt are another chain.
struct PrefixCursor {
  std::string salt;
  uint64_t parent = 0;  // name of the block before; 0 at the start
  int64_t blocks = 0;   // passed so far
};

// Or'ed to the variant of a token whose state was computed as a prompt's (SequenceChunk::prefill).
inline constexpr uint8_t kPromptState = 0x80;

// A block is named by its parent's name, its tokens and the precision each token's state was
// computed at, compared in full: equal hashes never pass for equal prefixes. The names die with the
// blocks (see BlockPool): ends of chains first, then least recently used. Engine thread only;
// `pool` must outlive it and have no other evictor.
class PrefixCache {
 public:
  PrefixCache(BlockPool& pool, int64_t block_tokens);

  // The block that holds the state of these tokens (block_tokens of them, with as many variants)
  // after those the cursor passed; moves the cursor past it. Nothing if it is not there.
  std::optional<int32_t> Find(PrefixCursor& cursor, std::span<const int32_t> tokens,
                              std::span<const uint8_t> variants) const;
  // Remembers a held block with that content and moves the cursor past it. If the same content is
  // there already, that block stays the one to be found.
  void Insert(PrefixCursor& cursor, std::span<const int32_t> tokens,
              std::span<const uint8_t> variants, int32_t block);
  int64_t size() const { return static_cast<int64_t>(entries_.size()); }

 private:
  struct Entry {
    uint64_t name = 0;
    int32_t block = 0;
  };
  std::string Key(const PrefixCursor& cursor, std::span<const int32_t> tokens,
                  std::span<const uint8_t> variants) const;

  BlockPool& pool_;
  const int64_t block_tokens_;
  uint64_t names_ = 0;
  absl::flat_hash_map<std::string, Entry> entries_;
  std::vector<std::string> keys_;  // [block], empty if not remembered
};

}  // namespace lift
