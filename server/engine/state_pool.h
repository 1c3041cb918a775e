// Blocks of sequence state (KV cache): who holds which, with reference counts so that sequences can
// share a prefix, and with the least recently used of those that are only remembered.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <span>
#include <vector>

namespace lift {

// Hands out block numbers in [0, total). A block is empty, held (by one or more tables), or cached:
// held by nobody but remembered, and evicted when an empty one is wanted and there is none. Engine
// thread only.
class BlockPool {
 public:
  explicit BlockPool(int64_t total);
  int64_t total() const { return static_cast<int64_t>(slots_.size()); }
  // What can be allocated: empty and cached blocks.
  int64_t free() const { return static_cast<int64_t>(empty_.size() + cached_.size()); }
  int64_t used() const { return total() - free(); }
  int64_t cached() const { return static_cast<int64_t>(cached_.size()); }

  int32_t Allocate();                // with one reference; CHECKs that a block is free
  void AddReference(int32_t block);  // of a held or cached block
  void Release(int32_t block);       // drops one reference; the last one frees or caches the block
  int32_t references(int32_t block) const { return references_[block]; }

  // From now on the (held) block is worth remembering when nobody holds it. `on_evict`, set once,
  // is told before its content is lost.
  void Remember(int32_t block);
  void set_on_evict(std::function<void(int32_t)> on_evict) { on_evict_ = std::move(on_evict); }

 private:
  struct Slot {
    bool remembered = false;
    std::list<int32_t>::iterator place;  // in cached_, if remembered and without references
  };
  // [total]; apart from the rest, as every step goes over those of all running sequences
  std::vector<int32_t> references_;
  std::vector<Slot> slots_;     // [total]
  std::vector<int32_t> empty_;  // used as a stack
  std::list<int32_t> cached_;   // least recently used first
  std::function<void(int32_t)> on_evict_;
};

inline int64_t BlocksFor(int64_t tokens, int64_t block_tokens) {
  return (tokens + block_tokens - 1) / block_tokens;
}

// The blocks of one sequence in order; gives them back when it goes.
class BlockTable {
 public:
  BlockTable(BlockPool& pool, int64_t block_tokens) : pool_(pool), block_tokens_(block_tokens) {}
  ~BlockTable() { Clear(); }
  BlockTable(const BlockTable&) = delete;
  BlockTable& operator=(const BlockTable&) = delete;

  void Cover(int64_t tokens);  // allocates what is missing
  void Append(int32_t block);  // shares a held or cached one, behind those it has
  // Gives back the blocks that lie entirely before this token; -1 stands in their places.
  void DropBefore(int64_t token);
  void Clear();  // the last block first, so that of a chain the end is evicted first
  std::span<const int32_t> blocks() const { return blocks_; }
  // Whether DropBefore gave any of them back.
  bool dropped() const { return dropped_ > 0; }
  // Dropped ones included.
  int64_t size() const { return static_cast<int64_t>(blocks_.size()); }
  // Blocks that nobody else holds.
  int64_t owned() const;
  // A block shared by n tables counts 1/n in each (rounded down).
  uint64_t HeldBytes(uint64_t bytes_per_block) const;

 private:
  BlockPool& pool_;
  int64_t block_tokens_;
  std::vector<int32_t> blocks_;
  size_t dropped_ = 0;  // leading ones
};

}  // namespace lift
