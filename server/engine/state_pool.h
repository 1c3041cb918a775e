// Blocks of sequence state (KV cache): who holds which, with reference counts so that sequences can
// share a prefix.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace lift {

// Hands out block numbers in [0, total). Engine thread only.
class BlockPool {
 public:
  explicit BlockPool(int64_t total);
  int64_t total() const { return static_cast<int64_t>(references_.size()); }
  int64_t free() const { return static_cast<int64_t>(free_.size()); }
  int64_t used() const { return total() - free(); }

  int32_t Allocate();                // with one reference; CHECKs that a block is free
  void AddReference(int32_t block);  // of a held block
  void Release(int32_t block);       // drops one reference; the last one frees the block
  int32_t references(int32_t block) const { return references_[block]; }

 private:
  std::vector<int32_t> references_;  // [total], 0 = free
  std::vector<int32_t> free_;        // used as a stack
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
  void Share(const BlockTable& prefix,
             int64_t blocks);  // of an empty table: the first blocks of another
  void Clear();
  std::span<const int32_t> blocks() const { return blocks_; }
  int64_t size() const { return static_cast<int64_t>(blocks_.size()); }
  // A block shared by n tables counts 1/n in each (rounded down).
  uint64_t HeldBytes(uint64_t bytes_per_block) const;

 private:
  BlockPool& pool_;
  int64_t block_tokens_;
  std::vector<int32_t> blocks_;
};

}  // namespace lift
