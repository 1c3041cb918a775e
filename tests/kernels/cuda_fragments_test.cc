// The CUDA kernel's index arithmetic, run lane by lane on the CPU with mma.m16n8k32 written out by
// its definition in the PTX ISA.
#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

#include "kernels/cuda/fragments.h"

namespace lift::cuda {
namespace {

TEST(Fragments, EveryCellIsWrittenOnce) {
  std::set<std::pair<int, int>> cells;
  for (int lane = 0; lane < 32; ++lane) {
    for (int k = 0; k < 4; ++k) cells.insert({CellOf(lane, k).row, CellOf(lane, k).token});
  }
  EXPECT_EQ(cells.size(), 16u * 8);
}

TEST(Fragments, EveryColumnOfAGroupIsReadOnceByEachRow) {
  for (int g = 0; g < 8; ++g) {
    std::set<int> columns;
    for (int q = 0; q < 4; ++q) {
      for (int i = 0; i < 8; i += 2) {
        for (int half = 0; half < 2; ++half) {
          for (int j = 0; j < 4; ++j) columns.insert(ColumnOf(4 * g + q, i, half, j));
        }
      }
    }
    EXPECT_EQ(columns.size(), 128u);
    EXPECT_EQ(*columns.rbegin(), 127);
  }
}

// PTX ISA, mma.m16n8k32 with 8-bit types. A register a (0..3), byte j of lane: row g + 8 * (a & 1),
// k = 4 * q + j + 16 * (a >> 1). B register b, byte j: k = 4 * q + j + 16 * b, column g.
TEST(Fragments, AGroupsProductEqualsThePlainSum) {
  std::mt19937 random(5);
  uint32_t plane[kGroupTiles][16];        // word of a row: bit t = column t of the tile
  int8_t u[kMaxTokens][kGroupTiles][32];  // backend order: 4 * i + j <-> column 8 * j + i
  for (auto& tile : plane)
    for (uint32_t& word : tile) word = static_cast<uint32_t>(random());
  for (auto& token : u)
    for (auto& tile : token)
      for (int8_t& x : tile) x = static_cast<int8_t>(random());
  int result[16][8] = {};
  for (int i = 0; i < 8; i += 2) {
    int a[16][32] = {}, b[32][8] = {};
    for (int lane = 0; lane < 32; ++lane) {
      const LaneRole role = RoleOfLane(lane);
      const uint32_t low = plane[role.tile][role.row], high = plane[role.tile][role.row + 8];
      const uint32_t fragment[4] = {low >> i & 0x01010101u, high >> i & 0x01010101u,
                                    low >> (i + 1) & 0x01010101u, high >> (i + 1) & 0x01010101u};
      for (int r = 0; r < 4; ++r) {
        for (int j = 0; j < 4; ++j)
          a[role.row + 8 * (r & 1)][4 * role.tile + j + 16 * (r >> 1)] =
              fragment[r] >> (8 * j) & 255;
      }
      for (int half = 0; half < 2; ++half) {
        for (int j = 0; j < 4; ++j)
          b[4 * role.tile + j + 16 * half][role.row] = u[role.row][role.tile][4 * (i + half) + j];
      }
    }
    for (int row = 0; row < 16; ++row) {
      for (int token = 0; token < 8; ++token) {
        for (int k = 0; k < 32; ++k) result[row][token] += a[row][k] * b[k][token];
      }
    }
  }
  for (int row = 0; row < 16; ++row) {
    for (int token = 0; token < 8; ++token) {
      int want = 0;
      for (int column = 0; column < 128; ++column) {
        const int tile = column / 32, t = column % 32;
        if (plane[tile][row] >> t & 1) want += u[token][tile][4 * (t % 8) + t / 8];
      }
      EXPECT_EQ(result[row][token], want) << row << " " << token;
    }
  }
}

TEST(Fragments, ParityWordsXorTheNamedColumns) {
  std::mt19937 random(6);
  for (int round = 0; round < 200; ++round) {
    const uint32_t previous = static_cast<uint32_t>(random()),
                   word = static_cast<uint32_t>(random()), mask = random() & 255;
    const uint32_t out = ParityWord(word, previous, mask);
    const uint64_t both = static_cast<uint64_t>(word) << 32 | previous;
    for (int t = 0; t < 32; ++t) {
      uint32_t want = 0;
      for (int s = 0; s < 8; ++s)
        want ^= (mask >> s & 1) & static_cast<uint32_t>(both >> (32 + t - s) & 1);
      EXPECT_EQ(out >> t & 1, want);
    }
  }
}

}  // namespace
}  // namespace lift::cuda
