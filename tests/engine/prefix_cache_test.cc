#include "server/engine/prefix_cache.h"

#include <gtest/gtest.h>

#include "server/engine/fair_share.h"

namespace lift {
namespace {

const std::vector<uint8_t> kFine = {4, 4}, kMixed = {4, 2};
using Tokens = std::vector<int32_t>;

TEST(PrefixCacheTest, FindsTheSameChainOnly) {
  BlockPool pool(4);
  PrefixCache cache(pool, 2);
  BlockTable table(pool, 2);
  table.Cover(4);
  PrefixCursor writer{.salt = "a"};
  cache.Insert(writer, Tokens{1, 2}, kFine, table.blocks()[0]);
  cache.Insert(writer, Tokens{3, 4}, kFine, table.blocks()[1]);
  PrefixCursor reader{.salt = "a"};
  EXPECT_EQ(cache.Find(reader, Tokens{1, 2}, kFine), table.blocks()[0]);
  EXPECT_FALSE(cache.Find(reader, Tokens{3, 5}, kFine));
  EXPECT_FALSE(cache.Find(reader, Tokens{3, 4}, kMixed));  // computed at another precision
  EXPECT_EQ(cache.Find(reader, Tokens{3, 4}, kFine), table.blocks()[1]);
  EXPECT_EQ(reader.blocks, 2);
  PrefixCursor stranger{.salt = "b"};
  EXPECT_FALSE(cache.Find(stranger, Tokens{1, 2}, kFine));
  PrefixCursor start{.salt = "a"};
  EXPECT_FALSE(cache.Find(start, Tokens{3, 4}, kFine));  // not at the start
}

TEST(PrefixCacheTest, CachedBlocksAreFreeAndTheOldestEndGoesFirst) {
  BlockPool pool(4);
  PrefixCache cache(pool, 2);
  std::vector<int32_t> blocks;
  {
    BlockTable table(pool, 2);
    table.Cover(6);
    blocks.assign(table.blocks().begin(), table.blocks().end());
    PrefixCursor writer;
    for (int32_t i = 0; i < 3; ++i) cache.Insert(writer, Tokens{i, i}, kFine, blocks[i]);
    EXPECT_EQ(pool.used(), 3);
  }
  EXPECT_EQ(pool.used(), 0);
  EXPECT_EQ(pool.cached(), 3);
  const auto found = [&] {
    PrefixCursor reader;
    int32_t n = 0;
    while (n < 3 && cache.Find(reader, Tokens{n, n}, kFine)) ++n;
    return n;
  };
  EXPECT_EQ(found(), 3);
  BlockTable other(pool, 2);
  other.Cover(4);  // one empty block, then the end of the chain
  EXPECT_EQ(found(), 2);
  {
    BlockTable sharer(pool, 2);
    sharer.Append(blocks[0]);
    EXPECT_EQ(pool.free(), 1);
    other.Cover(6);  // the one that is not held
    EXPECT_EQ(found(), 1);
    EXPECT_EQ(pool.free(), 0);
  }
  other.Cover(8);
  EXPECT_EQ(found(), 0);
  EXPECT_EQ(cache.size(), 0);
}

TEST(PrefixCacheTest, TheFirstOfTwoEqualBlocksIsFound) {
  BlockPool pool(4);
  PrefixCache cache(pool, 2);
  BlockTable a(pool, 2), b(pool, 2);
  a.Cover(2);
  b.Cover(4);
  PrefixCursor first, second, reader;
  cache.Insert(first, Tokens{1, 2}, kFine, a.blocks()[0]);
  cache.Insert(second, Tokens{1, 2}, kFine, b.blocks()[0]);
  cache.Insert(second, Tokens{3, 4}, kFine, b.blocks()[1]);
  EXPECT_EQ(cache.Find(reader, Tokens{1, 2}, kFine), a.blocks()[0]);
  EXPECT_EQ(cache.Find(reader, Tokens{3, 4}, kFine), b.blocks()[1]);
  b.Clear();
  EXPECT_EQ(pool.cached(), 1);  // the second copy of the first block is not remembered
}

TEST(FairShareTest, DebtsStayCreditsAreNotSaved) {
  FairShare shares;
  shares.Join("busy");
  shares.Join("quiet");
  shares.Charge("busy", 100);
  shares.Charge("quiet", 30);
  shares.Round();
  EXPECT_EQ(shares.credit("quiet"), 0);
  EXPECT_EQ(shares.credit("busy"), -70);
  shares.Leave("busy");  // coming back does not clear the debt
  shares.Join("busy");
  EXPECT_EQ(shares.credit("busy"), -70);
  shares.Join("new");
  EXPECT_EQ(shares.credit("new"), 0);
  shares.Leave("new");
  shares.Charge("quiet", 80);
  shares.Round();
  EXPECT_EQ(shares.credit("busy"), 0);
  EXPECT_EQ(shares.credit("quiet"), -10);
  shares.Leave("busy");
  shares.Leave("quiet");
  shares.Round();
  EXPECT_EQ(shares.size(), 0u);
}

TEST(BlockTableTest, DroppedBlocksAreFreeAndNoLongerCounted) {
  BlockPool pool(6);
  BlockTable table(pool, 2);
  table.Cover(8);
  {
    BlockTable sharer(pool, 2);
    sharer.Append(table.blocks()[0]);
    EXPECT_EQ(table.HeldBytes(100), 350u);
    table.DropBefore(5);  // tokens 0 to 3; the block of token 4 stays
    EXPECT_EQ(table.size(), 4);
    EXPECT_EQ(table.blocks()[0], -1);
    EXPECT_EQ(table.blocks()[1], -1);
    EXPECT_GE(table.blocks()[2], 0);
    EXPECT_EQ(table.HeldBytes(100), 200u);
    EXPECT_EQ(table.owned(), 2);
    EXPECT_EQ(pool.used(), 3);  // the sharer keeps its own
  }
  EXPECT_EQ(pool.used(), 2);
  table.DropBefore(2);  // nothing that is not gone already
  table.DropBefore(-7);
  table.Cover(10);
  EXPECT_EQ(table.size(), 5);
  EXPECT_EQ(pool.used(), 3);
  table.DropBefore(1000);
  EXPECT_EQ(pool.used(), 0);
  table.Clear();
  EXPECT_EQ(table.size(), 0);
  table.Cover(12);  // as new
  EXPECT_EQ(table.HeldBytes(100), 600u);
}

}  // namespace
}  // namespace lift
