// How lanes of mma.m16n8k32 meet the file's plane tiles. Plain arithmetic, shared by the kernel and
// its CPU tests.
//
// A group is four neighbouring tiles (128 columns) of one stream and row tile. Lane l = 4 * g + q
// (g in 0..7, q in 0..3) loads the words of rows g and g + 8 of the group's tile q. `(word >> i) &
// 0x01010101` is four A elements: byte j is column 32 * q + 8 * j + i. One mma takes bits i and i +
// 1, so four of them consume the group. B elements of token g are then the 32-bit words i and i + 1
// of tile q's lifted activations in the backend's own order (4 * i + j <-> column 8 * j + i):
// nothing is permuted for the GPU.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define LIFT_HOST_DEVICE __host__ __device__
#else
#define LIFT_HOST_DEVICE
#endif

namespace lift::cuda {

inline constexpr int kGroupTiles = 4;
inline constexpr int kMaxTokens = 8;  // columns of one mma

struct LaneRole {
  int row;   // g: rows g and g + 8 of the tile; also the token whose B fragment the lane holds
  int tile;  // q: tile of the group
};
LIFT_HOST_DEVICE constexpr LaneRole RoleOfLane(int lane) { return {lane >> 2, lane & 3}; }

// Where accumulator c[k] of a lane lands.
struct Cell {
  int row, token;
};
LIFT_HOST_DEVICE constexpr Cell CellOf(int lane, int k) {
  return {(lane >> 2) + (k >= 2 ? 8 : 0), (lane & 3) * 2 + (k & 1)};
}

// Column within the group of A element (register half, byte j) of mma number i/2: half 0 is bit i,
// half 1 is bit i + 1.
LIFT_HOST_DEVICE constexpr int ColumnOf(int lane, int i, int half, int j) {
  return 32 * (lane & 3) + 8 * j + i + half;
}

// Derived sign words: bit t of the result is the parity over the steps back named in `mask` (bit s
// = s columns back) of word : previous, where `previous` holds the 32 columns before.
LIFT_HOST_DEVICE constexpr uint32_t ParityWord(uint32_t word, uint32_t previous, uint32_t mask) {
  uint32_t out = 0;
  for (int s = 0; s < 8; ++s) {
    if (mask >> s & 1) out ^= s == 0 ? word : (word << s | previous >> (32 - s));
  }
  return out;
}

}  // namespace lift::cuda
