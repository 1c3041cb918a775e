#include "server/engine/snapshot_cache.h"

#include <algorithm>

#include "absl/hash/hash.h"
#include "kernels/base/check.h"

namespace lift {
namespace {

// Grows with the prefix, so that the hashes of all its own prefixes cost one pass.
class PrefixHash {
 public:
  explicit PrefixHash(std::string_view salt) : value_(absl::HashOf(salt)) {}
  void Add(int32_t token, uint8_t variant) {
    const uint64_t item = uint64_t{static_cast<uint32_t>(token)} << 8 | variant;
    value_ = (value_ ^ item) * 0x9E3779B97F4A7C15u;
    value_ ^= value_ >> 29;
  }
  uint64_t value() const { return value_; }

 private:
  uint64_t value_;
};

uint64_t HashAll(std::string_view salt, std::span<const int32_t> tokens,
                 std::span<const uint8_t> variants) {
  PrefixHash hash(salt);
  for (size_t i = 0; i < tokens.size(); ++i) hash.Add(tokens[i], variants[i]);
  return hash.value();
}

}  // namespace

SnapshotCache::SnapshotCache(BlockPool& pool)
    : pool_(pool), hashes_(static_cast<size_t>(pool.total())) {
  pool_.set_on_evict([this](int32_t block) { entries_.erase(hashes_[block]); });
}

int32_t SnapshotCache::Find(uint64_t hash, std::string_view salt, std::span<const int32_t> tokens,
                            std::span<const uint8_t> variants) const {
  const auto it = entries_.find(hash);
  if (it == entries_.end()) return -1;
  const Entry& entry = it->second;
  const bool equal = entry.salt == salt && std::ranges::equal(entry.tokens, tokens) &&
                     std::ranges::equal(entry.variants, variants);
  return equal ? entry.block : -1;
}

SnapshotCache::Match SnapshotCache::Longest(std::string_view salt, std::span<const int32_t> tokens,
                                            std::span<const uint8_t> variants, int64_t step) const {
  LIFT_CHECK(step > 0 && variants.size() == tokens.size());
  if (entries_.empty()) return {};
  const auto every = static_cast<size_t>(step);
  std::vector<uint64_t> hashes;  // after step, 2 step, ... tokens
  PrefixHash hash(salt);
  for (size_t i = 0; i + 1 < tokens.size(); ++i) {
    hash.Add(tokens[i], variants[i]);
    if ((i + 1) % every == 0) hashes.push_back(hash.value());
  }
  for (size_t n = hashes.size(); n > 0; --n) {
    const size_t count = n * every;
    const int32_t block = Find(hashes[n - 1], salt, tokens.first(count), variants.first(count));
    if (block >= 0) return {static_cast<int64_t>(count), block};
  }
  return {};
}

bool SnapshotCache::Has(std::string_view salt, std::span<const int32_t> tokens,
                        std::span<const uint8_t> variants) const {
  return Find(HashAll(salt, tokens, variants), salt, tokens, variants) >= 0;
}

void SnapshotCache::Insert(std::string_view salt, std::span<const int32_t> tokens,
                           std::span<const uint8_t> variants, int32_t block) {
  LIFT_CHECK(variants.size() == tokens.size());
  const uint64_t hash = HashAll(salt, tokens, variants);
  const auto [it, added] = entries_.try_emplace(hash);
  if (!added) return;
  it->second = {
      std::string(salt), {tokens.begin(), tokens.end()}, {variants.begin(), variants.end()}, block};
  hashes_[block] = hash;
  pool_.Remember(block);
}

void SnapshotCache::Touch(const Match& match) {
  pool_.AddReference(match.block);
  pool_.Release(match.block);
}

}  // namespace lift
