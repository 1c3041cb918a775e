#include "server/engine/state_pool.h"

#include <algorithm>

#include "kernels/base/check.h"

namespace lift {

BlockPool::BlockPool(int64_t total)
    : references_(static_cast<size_t>(total)), slots_(static_cast<size_t>(total)) {
  for (int64_t block = total; block-- > 0;) empty_.push_back(static_cast<int32_t>(block));
}

int32_t BlockPool::Allocate() {
  LIFT_CHECK(free() > 0);
  int32_t block = 0;
  if (!empty_.empty()) {
    block = empty_.back();
    empty_.pop_back();
  } else {
    block = cached_.front();
    cached_.pop_front();
    slots_[block].remembered = false;
    if (on_evict_) on_evict_(block);
  }
  references_[block] = 1;
  return block;
}

void BlockPool::AddReference(int32_t block) {
  if (references_[block]++ > 0) return;
  LIFT_CHECK(slots_[block].remembered);
  cached_.erase(slots_[block].place);
}

void BlockPool::Release(int32_t block) {
  LIFT_CHECK(references_[block] > 0);
  if (--references_[block] > 0) return;
  Slot& slot = slots_[block];
  if (slot.remembered) {
    slot.place = cached_.insert(cached_.end(), block);
  } else {
    empty_.push_back(block);
  }
}

void BlockPool::Remember(int32_t block) {
  LIFT_CHECK(references_[block] > 0);
  slots_[block].remembered = true;
}

void BlockTable::Cover(int64_t tokens) {
  const int64_t needed = BlocksFor(tokens, block_tokens_);
  while (size() < needed) blocks_.push_back(pool_.Allocate());
}

void BlockTable::Append(int32_t block) {
  pool_.AddReference(block);
  blocks_.push_back(block);
}

void BlockTable::DropBefore(int64_t token) {
  const auto end = static_cast<size_t>(std::clamp<int64_t>(token / block_tokens_, 0, size()));
  for (; dropped_ < end; ++dropped_) {
    pool_.Release(blocks_[dropped_]);
    blocks_[dropped_] = -1;
  }
}

void BlockTable::Clear() {
  for (; blocks_.size() > dropped_; blocks_.pop_back()) pool_.Release(blocks_.back());
  blocks_.clear();
  dropped_ = 0;
}

int64_t BlockTable::owned() const {
  int64_t owned = 0;
  for (const int32_t block : std::span(blocks_).subspan(dropped_))
    owned += pool_.references(block) == 1 ? 1 : 0;
  return owned;
}

uint64_t BlockTable::HeldBytes(uint64_t bytes_per_block) const {
  uint64_t bytes = 0;
  for (const int32_t block : std::span(blocks_).subspan(dropped_)) {
    const auto references = static_cast<uint64_t>(pool_.references(block));
    bytes += references == 1 ? bytes_per_block : bytes_per_block / references;
  }
  return bytes;
}

}  // namespace lift
