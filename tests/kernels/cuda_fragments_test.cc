// The CUDA kernel's index arithmetic, run lane by lane on the CPU with mma.m16n8k256 on bits
// written out by its definition in the PTX ISA.
#include <gtest/gtest.h>

#include <bit>
#include <random>
#include <set>

#include "kernels/cuda/fragments.h"

namespace lift::cuda {
namespace {

TEST(Fragments, EveryCountIsMadeOnce) {
  std::set<std::pair<int, int>> counts;
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) counts.insert({CountOf(lane, i).row, CountOf(lane, i).bit});
  }
  EXPECT_EQ(counts.size(), 16u * 8);
}

TEST(Fragments, EveryRowOfEveryTileIsReadOnce) {
  std::set<std::pair<int, int>> words;
  for (int lane = 0; lane < 32; ++lane) {
    const LaneRole role = RoleOfLane(lane);
    for (int half = 0; half < 2; ++half) {
      words.insert({role.row, role.tile + 4 * half});
      words.insert({role.row + 1, role.tile + 4 * half});
    }
  }
  EXPECT_EQ(words.size(), 16u * kGroupTiles);
}

TEST(Fragments, WeightsOfBitsMakeTheNumber) {
  for (int value = -128; value < 128; ++value) {
    int sum = 0;
    for (int b = 0; b < kBits; ++b) sum += (static_cast<uint8_t>(value) >> b & 1) * WeightOfBit(b);
    EXPECT_EQ(sum, value);
  }
}

// PTX ISA, mma.m16n8k256 with .b1: of lane 4 g + q, A register a holds row g + 8 * (a & 1), columns
// 32 * q + 128 * (a >> 1) and on; B register b rows 32 * q + 128 * b and on of column g;
// accumulator i row g + 8 * (i >> 1), column 2 * q + (i & 1).
TEST(Fragments, AGroupsProductEqualsThePlainSum) {
  std::mt19937 random(5);
  uint32_t plane[kGroupTiles][16], bits[kGroupTiles][kBits];
  for (auto& tile : plane)
    for (uint32_t& word : tile) word = static_cast<uint32_t>(random());
  int8_t u[kGroupTiles][32];
  for (int tile = 0; tile < kGroupTiles; ++tile) {
    for (uint32_t& word : bits[tile]) word = 0;
    for (int t = 0; t < 32; ++t) {
      u[tile][t] = static_cast<int8_t>(random());
      for (int b = 0; b < kBits; ++b)
        bits[tile][b] |= (static_cast<uint32_t>(static_cast<uint8_t>(u[tile][t])) >> b & 1) << t;
    }
  }
  uint32_t a[16][8] = {}, b[8][8] = {};  // [row or column][word of 32]
  for (int lane = 0; lane < 32; ++lane) {
    const LaneRole role = RoleOfLane(lane);
    const int g = lane / 4, q = lane % 4;
    for (int half = 0; half < 2; ++half) {
      a[g][q + 4 * half] = plane[role.tile + 4 * half][role.row];
      a[g + 8][q + 4 * half] = plane[role.tile + 4 * half][role.row + 1];
      b[g][q + 4 * half] = bits[role.tile + 4 * half][role.bit];
    }
  }
  int result[16] = {};
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      int count = 0;
      for (int word = 0; word < 8; ++word) {
        count += std::popcount(a[lane / 4 + 8 * (i / 2)][word] & b[2 * (lane % 4) + i % 2][word]);
      }
      result[CountOf(lane, i).row] += count * WeightOfBit(CountOf(lane, i).bit);
    }
  }
  for (int row = 0; row < 16; ++row) {
    int want = 0;
    for (int column = 0; column < 32 * kGroupTiles; ++column) {
      if (plane[column / 32][row] >> (column % 32) & 1) want += u[column / 32][column % 32];
    }
    EXPECT_EQ(result[row], want) << row;
  }
}

TEST(Fragments, EarlierColumnsComeFromTheWordBefore) {
  std::mt19937 random(6);
  for (int round = 0; round < 200; ++round) {
    const auto previous = static_cast<uint32_t>(random()), word = static_cast<uint32_t>(random());
    const uint64_t both = static_cast<uint64_t>(word) << 32 | previous;
    for (int s = 0; s < 8; ++s) {
      for (int t = 0; t < 32; ++t)
        EXPECT_EQ(Earlier(word, previous, s) >> t & 1, both >> (32 + t - s) & 1);
    }
  }
}

}  // namespace
}  // namespace lift::cuda
