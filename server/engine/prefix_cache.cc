#include "server/engine/prefix_cache.h"

#include <utility>

#include "kernels/base/check.h"

namespace lift {
namespace {

template <typename T>
void AppendBytes(std::span<const T> values, std::string& out) {
  out.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
}

}  // namespace

PrefixCache::PrefixCache(BlockPool& pool, int64_t block_tokens)
    : pool_(pool), block_tokens_(block_tokens), keys_(static_cast<size_t>(pool.total())) {
  pool_.set_on_evict([this](int32_t block) {
    entries_.erase(keys_[block]);
    keys_[block].clear();
  });
}

// Fixed widths first, so that no two contents have the same key; the salt counts at the start only.
std::string PrefixCache::Key(const PrefixCursor& cursor, std::span<const int32_t> tokens,
                             std::span<const uint8_t> variants) const {
  LIFT_CHECK(static_cast<int64_t>(tokens.size()) == block_tokens_ &&
             variants.size() == tokens.size());
  std::string key;
  key.reserve(sizeof cursor.parent + tokens.size_bytes() + variants.size() + cursor.salt.size());
  AppendBytes(std::span(&cursor.parent, 1), key);
  AppendBytes(tokens, key);
  AppendBytes(variants, key);
  if (cursor.parent == 0) key += cursor.salt;
  return key;
}

std::optional<int32_t> PrefixCache::Find(PrefixCursor& cursor, std::span<const int32_t> tokens,
                                         std::span<const uint8_t> variants) const {
  const auto it = entries_.find(Key(cursor, tokens, variants));
  if (it == entries_.end()) return std::nullopt;
  cursor.parent = it->second.name;
  ++cursor.blocks;
  return it->second.block;
}

void PrefixCache::Insert(PrefixCursor& cursor, std::span<const int32_t> tokens,
                         std::span<const uint8_t> variants, int32_t block) {
  std::string key = Key(cursor, tokens, variants);
  const auto [it, added] = entries_.try_emplace(key, Entry{names_ + 1, block});
  if (added) {
    ++names_;
    keys_[block] = std::move(key);
    pool_.Remember(block);
  }
  cursor.parent = it->second.name;
  ++cursor.blocks;
}

}  // namespace lift
