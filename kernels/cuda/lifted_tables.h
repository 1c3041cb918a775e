// What kernels know of lifted tensors: plain tables of device pointers, passed as parameters, or in
// device memory where a kernel picks one of many (experts). Built by cuda_backend.
#pragma once

#include <cstdint>

#include "kernels/cuda/rotation.h"

namespace lift::cuda {

inline constexpr int kMaxSlots = 8;       // distinct codes of one launch
inline constexpr int kMaxProducts = 4;    // matrices of one launch
inline constexpr int kMaxStageRows = 24;  // stages of all of them
inline constexpr int kMaxMasks = 7;       // derived streams of a code
inline constexpr int kMaxCodeStreams = 8;

// How the signs of one code are made.
struct CodeTable {
  int32_t stored, derived, steps;
  uint32_t shipped;                           // its mask is kParityMasks[stored]
  const float* taps;                          // [steps][streams]
  uint8_t masks[kMaxMasks][kMaxCodeStreams];  // [derived][stored]: bit s = that sign s columns back
};

// Lifted activations of one slot. A column is eight words a block and stream: the bits of an int8.
// A token has one column, or two (high and low byte) where any token of the launch is wide.
struct SlotTable {
  CodeTable code;
  uint32_t* bits;  // [tokens][parts][blocks][streams][8]
  float* scale;    // [tokens]
  int32_t* sums;   // [tokens][2] of the high and low bytes
  uint8_t* wide;   // [tokens]
};

// One input of lifted tensors.
struct SiteTable {
  RotationView rotation;
  int64_t blocks;       // of 32 columns
  const uint8_t* used;  // [variants][slots], see LiftSite
  const uint8_t* wide_of;
  int32_t slots, unused;
  SlotTable slot[kMaxSlots];
};

struct StageTable {
  const uint8_t* planes;  // the file's layout: [row tile][block][stored] tiles of 64 bytes
  float gain;
  int32_t slot;
};

struct ProductTable {
  const uint16_t* row_scale;  // [rows] binary16
  const int64_t* stage_rows;  // [variants][stages]: leading rows that a variant reads
  float* y;                   // [tokens], `pitch` floats apart
  int64_t rows, pitch;
  int32_t first_tile, first_stage, stages, unused;
};

// Matrices over one input.
struct ProductSet {
  int64_t blocks;
  int32_t products, parts;
  ProductTable product[kMaxProducts];
  StageTable stage[kMaxStageRows];
  SlotTable slot[kMaxSlots];
};

}  // namespace lift::cuda
