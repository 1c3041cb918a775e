#include "server/engine/snapshot_cache.h"

#include <gtest/gtest.h>

namespace lift {
namespace {

using Tokens = std::vector<int32_t>;
using Variants = std::vector<uint8_t>;

// Keeps a state in a block that nobody holds afterwards.
int32_t Keep(BlockPool& pool, SnapshotCache& cache, const std::string& salt, const Tokens& tokens,
             const Variants& variants) {
  const int32_t block = pool.Allocate();
  cache.Insert(salt, tokens, variants, block);
  pool.Release(block);
  return block;
}

TEST(SnapshotCacheTest, FindsTheLongestPrefixThatIsEqual) {
  BlockPool pool(8);
  SnapshotCache cache(pool);
  const Tokens all = {1, 2, 3, 4, 5, 6, 7};
  const Variants fine(7, 4);
  const int32_t two = Keep(pool, cache, "a", {1, 2}, {4, 4});
  const int32_t six = Keep(pool, cache, "a", {1, 2, 3, 4, 5, 6}, {4, 4, 4, 4, 4, 4});
  const auto longest = [&](const std::string& salt, const Tokens& tokens,
                           const Variants& variants) {
    return cache.Longest(salt, tokens, variants, 2);
  };
  EXPECT_EQ(longest("a", all, fine).tokens, 6);
  EXPECT_EQ(longest("a", all, fine).block, six);
  EXPECT_EQ(longest("b", all, fine).tokens, 0);
  EXPECT_EQ(longest("a", {1, 2, 3, 4, 5, 9, 7}, fine).block, two);
  EXPECT_EQ(longest("a", {1, 9, 3}, {4, 4, 4}).tokens, 0);
  EXPECT_EQ(longest("a", all, {4, 4, 4, 3, 4, 4, 4}).tokens, 2);  // read at another precision
  // One token at least is left to be computed: its logits are wanted.
  EXPECT_EQ(longest("a", {1, 2, 3, 4, 5, 6}, {4, 4, 4, 4, 4, 4}).tokens, 2);
  EXPECT_EQ(cache.Longest("a", all, fine, 4).tokens, 0);  // no snapshot after 4
  EXPECT_TRUE(cache.Has("a", Tokens{1, 2}, Variants{4, 4}));
  EXPECT_FALSE(cache.Has("a", Tokens{1, 2}, Variants{4, 3}));
  EXPECT_FALSE(cache.Has("b", Tokens{1, 2}, Variants{4, 4}));
}

TEST(SnapshotCacheTest, TheLeastRecentlyUsedLeavesFirst) {
  BlockPool pool(3);
  SnapshotCache cache(pool);
  const auto has = [&](int32_t token) { return cache.Has("", Tokens{token}, Variants{0}); };
  for (int32_t token = 0; token < 3; ++token) Keep(pool, cache, "", {token}, {0});
  EXPECT_EQ(pool.free(), 3);  // they count as free
  EXPECT_EQ(pool.cached(), 3);
  cache.Touch(cache.Longest("", Tokens{0, 7}, Variants{0, 0}, 1));
  Keep(pool, cache, "", {3}, {0});
  EXPECT_TRUE(has(0) && has(2) && has(3));
  EXPECT_FALSE(has(1));
  EXPECT_EQ(cache.size(), 3);
  // A sequence that wants memory takes theirs, one by one.
  BlockTable table(pool, 1);
  table.Cover(2);
  EXPECT_FALSE(has(0) || has(2));
  EXPECT_TRUE(has(3));
  table.Cover(3);
  EXPECT_EQ(cache.size(), 0);
}

TEST(SnapshotCacheTest, WhatIsThereStays) {
  BlockPool pool(2);
  SnapshotCache cache(pool);
  const int32_t first = Keep(pool, cache, "", {5}, {0});
  Keep(pool, cache, "", {5}, {0});
  EXPECT_EQ(cache.Longest("", Tokens{5, 1}, Variants{0, 0}, 1).block, first);
  EXPECT_EQ(pool.cached(), 1);  // the second block is simply free again
}

}  // namespace
}  // namespace lift
