#include "server/engine/state_pool.h"

#include "kernels/base/check.h"

namespace lift {

BlockPool::BlockPool(int64_t total) : references_(static_cast<size_t>(total)) {
  for (int64_t block = total; block-- > 0;) free_.push_back(static_cast<int32_t>(block));
}

int32_t BlockPool::Allocate() {
  LIFT_CHECK(!free_.empty());
  const int32_t block = free_.back();
  free_.pop_back();
  references_[block] = 1;
  return block;
}

void BlockPool::AddReference(int32_t block) {
  LIFT_CHECK(references_[block] > 0);
  ++references_[block];
}

void BlockPool::Release(int32_t block) {
  LIFT_CHECK(references_[block] > 0);
  if (--references_[block] == 0) free_.push_back(block);
}

void BlockTable::Cover(int64_t tokens) {
  const int64_t needed = BlocksFor(tokens, block_tokens_);
  while (size() < needed) blocks_.push_back(pool_.Allocate());
}

void BlockTable::Share(const BlockTable& prefix, int64_t blocks) {
  LIFT_CHECK(blocks_.empty() && blocks <= prefix.size());
  for (int64_t i = 0; i < blocks; ++i) {
    pool_.AddReference(prefix.blocks_[i]);
    blocks_.push_back(prefix.blocks_[i]);
  }
}

void BlockTable::Clear() {
  for (const int32_t block : blocks_) pool_.Release(block);
  blocks_.clear();
}

uint64_t BlockTable::HeldBytes(uint64_t bytes_per_block) const {
  uint64_t bytes = 0;
  for (const int32_t block : blocks_) {
    bytes += bytes_per_block / static_cast<uint64_t>(pool_.references(block));
  }
  return bytes;
}

}  // namespace lift
