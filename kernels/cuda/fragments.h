// How lanes of mma.m16n8k256 on single bits meet the file's plane tiles. Plain arithmetic, shared
// by the kernel and its CPU tests.
//
// The sign product needs no unpacking on tensor cores. A lifted activation is an int8 number, kept
// as its eight bits in two's complement: bit b of 32 neighbouring columns is one word, column t at
// bit t, as in a plane. AND and popcount of a plane's row with those words count the set signs
// where the bit is set; eight counts, weighted 1, 2, 4, ... 64, -128, are the product. The eight
// bits of one token are the eight columns of one mma.
//
// A group is eight neighbouring tiles (256 columns) of one stream and row tile. Lane l = 4 * g + q
// (g in 0..7, q in 0..3) holds rows 2 g and 2 g + 1 of tiles q and q + 4, and bit g of the
// activations of the same columns.
#pragma once

#include <cstdint>

#include "kernels/base/host_device.h"

namespace lift::cuda {

inline constexpr int kGroupTiles = 8;
inline constexpr int kBits = 8;  // of an activation

struct LaneRole {
  int row;   // the first of two rows of the tile
  int tile;  // of the group; the other is `tile` + 4
  int bit;   // of the activations whose fragment the lane holds
};
LIFT_HOST_DEVICE constexpr LaneRole RoleOfLane(int lane) {
  return {lane / 4 * 2, lane % 4, lane / 4};
}

// What accumulator d[i] of a lane counts.
struct Count {
  int row, bit;
};
LIFT_HOST_DEVICE constexpr Count CountOf(int lane, int i) {
  return {lane / 4 * 2 + i / 2, lane % 4 * 2 + i % 2};
}

// What bit b of an int8 adds.
LIFT_HOST_DEVICE constexpr int WeightOfBit(int b) { return b == 7 ? -128 : 1 << b; }

// `word` shifted by s columns, the columns before it being those of `previous`.
LIFT_HOST_DEVICE constexpr uint32_t Earlier(uint32_t word, uint32_t previous, int s) {
  return s == 0 ? word : (word << s | previous >> (32 - s));
}

}  // namespace lift::cuda
