// The device code of the sign product, shared by the kernels of plain and of expert layers. One
// block computes a tile of 16 rows for up to kColumns columns of activations; its warps split the
// columns of the matrix.
#pragma once

#include "kernels/cuda/fragments.h"
#include "kernels/cuda/lifted_tables.h"
#include "kernels/format/parity_masks.h"

namespace lift::cuda {

inline constexpr int kSignWarps = 8;
inline constexpr int kSignColumns = 8;  // of activations at most
inline constexpr int kSignRows = 16;
inline constexpr int kTileWords = 16;  // of a plane tile

// Sums of the block's warps, two buffers: a stage writes one while the last reader of the stage
// before is still at the other.
using SignPartials = int[2][kSignWarps][kSignColumns][kSignRows];

// One lane's words of one stream of a group: rows 2 g and 2 g + 1 of tiles q and q + 4.
struct GroupWords {
  uint2 tile[2];
};

__device__ __forceinline__ uint2 LoadRows(const uint8_t* planes, int64_t block, int stored, int r,
                                          int row) {
  const auto* words = reinterpret_cast<const uint32_t*>(planes) + (block * stored + r) * kTileWords;
  return __ldcs(reinterpret_cast<const uint2*>(words + row));
}

// Columns past the end are zeros: the mma needs every lane.
__device__ __forceinline__ GroupWords LoadGroup(const uint8_t* planes, int blocks, int group,
                                                int stored, int r, const LaneRole& role) {
  GroupWords words;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int block = group * kGroupTiles + role.tile + 4 * half;
    words.tile[half] = block < blocks ? LoadRows(planes, block, stored, r, role.row) : uint2{0, 0};
  }
  return words;
}

// The words one tile before the group's. `carry` is those of the tile before the group's first, and
// becomes the group's last.
__device__ __forceinline__ GroupWords TilesBefore(const GroupWords& now, int lane, uint2& carry) {
  const int before = lane % 4 == 0 ? lane + 3 : lane - 1;
  GroupWords out;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    out.tile[half].x = __shfl_sync(kAllLanes, now.tile[half].x, before);
    out.tile[half].y = __shfl_sync(kAllLanes, now.tile[half].y, before);
  }
  // For tile q = 0 the lane before holds the last tile of its half.
  const uint2 last = out.tile[1];
  if (lane % 4 == 0) {
    out.tile[1] = out.tile[0];
    out.tile[0] = carry;
  }
  carry = last;
  return out;
}

// acc += the group's words of one stream times every column.
template <int kColumns>
__device__ __forceinline__ void Accumulate(int (&acc)[kColumns][4], const GroupWords& words,
                                           const uint32_t* bits, int64_t column_words, int columns,
                                           int blocks, int group, int streams, int r,
                                           const LaneRole& role) {
  const uint32_t a[4] = {words.tile[0].x, words.tile[0].y, words.tile[1].x, words.tile[1].y};
  int64_t at[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int block = min(group * kGroupTiles + role.tile + 4 * half, blocks - 1);
    at[half] = (static_cast<int64_t>(block) * streams + r) * kBits + role.bit;
  }
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    if (c >= columns) break;
    const uint32_t b[2] = {__ldg(bits + c * column_words + at[0]),
                           __ldg(bits + c * column_words + at[1])};
    MmaAndPopc(acc[c], a, b);
  }
}

__device__ __forceinline__ void XorEarlier(GroupWords& out, const GroupWords& now,
                                           const GroupWords& before, int s) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    out.tile[half].x ^= __funnelshift_l(before.tile[half].x, now.tile[half].x, s);
    out.tile[half].y ^= __funnelshift_l(before.tile[half].y, now.tile[half].y, s);
  }
}

// Derived stream k of the code. With kShipped its mask is a constant and the loops vanish.
template <int kStored, bool kShipped>
__device__ __forceinline__ GroupWords Derive(const CodeTable& code, int k, int stored,
                                             const GroupWords* now, const GroupWords* before) {
  GroupWords out = {};
  constexpr int kMost = kStored > 0 ? kStored : kMaxCodeStreams;
#pragma unroll
  for (int r = 0; r < kMost; ++r) {
    if (r >= stored) break;
#pragma unroll
    for (int s = 0; s < 8; ++s) {
      if constexpr (kShipped) {
        constexpr uint64_t kMask = kParityMasks[kStored];
        if ((kMask >> (s * (kStored + 1) + r) & 1) != 0) XorEarlier(out, now[r], before[r], s);
      } else if ((code.masks[k][r] >> s & 1) != 0) {
        XorEarlier(out, now[r], before[r], s);
      }
    }
  }
  return out;
}

// This warp's share of one stage: groups [begin, end) of the row tile at `planes`. kStored = 0:
// any code.
template <int kColumns, int kStored, bool kDerived, bool kShipped>
__device__ __forceinline__ void AccumulateStage(int (&acc)[kColumns][4], const CodeTable& code,
                                                const uint8_t* planes, const uint32_t* bits,
                                                int64_t column_words, int columns, int blocks,
                                                int begin, int end) {
  constexpr int kMost = kStored > 0 ? kStored : kMaxCodeStreams;
  const int stored = kStored > 0 ? kStored : code.stored, streams = stored + code.derived;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const LaneRole role = RoleOfLane(lane);
  if (begin >= end) return;
  GroupWords next[kMost], now[kMost], before[kMost];
  uint2 carry[kMost];
#pragma unroll
  for (int r = 0; r < kMost; ++r) {
    if (r >= stored) break;
    next[r] = LoadGroup(planes, blocks, begin, stored, r, role);
    if constexpr (kDerived) {
      const int last = begin == 0 ? blocks - 1 : begin * kGroupTiles - 1;  // rows are circular
      carry[r] = LoadRows(planes, last, stored, r, role.row);
    }
  }
  for (int group = begin; group < end; ++group) {
#pragma unroll
    for (int r = 0; r < kMost; ++r) {
      if (r >= stored) break;
      now[r] = next[r];
      if (group + 1 < end) next[r] = LoadGroup(planes, blocks, group + 1, stored, r, role);
    }
#pragma unroll
    for (int r = 0; r < kMost; ++r) {
      if (r >= stored) break;
      Accumulate<kColumns>(acc, now[r], bits, column_words, columns, blocks, group, streams, r,
                           role);
      if constexpr (kDerived) before[r] = TilesBefore(now[r], lane, carry[r]);
    }
    if constexpr (kDerived) {
      for (int k = 0; k < code.derived; ++k) {
        GroupWords parity = Derive<kStored, kShipped>(code, k, stored, now, before);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          if (group * kGroupTiles + role.tile + 4 * half >= blocks) parity.tile[half] = {0, 0};
        }
        Accumulate<kColumns>(acc, parity, bits, column_words, columns, blocks, group, streams,
                             stored + k, role);
      }
    }
  }
}

// Codes that have a loop of their own: up to four stored streams, and none or calibration's derived
// one. Others take a loop for any code, in kernels of their own, since it needs many registers.
LIFT_HOST_DEVICE constexpr bool IsCommon(const CodeTable& code) {
  return code.stored <= 4 && (code.derived == 0 || (code.derived == 1 && code.shipped != 0));
}

template <int kColumns, bool kAnyCode>
__device__ __forceinline__ void AccumulateAnyStage(int (&acc)[kColumns][4], const CodeTable& code,
                                                   const uint8_t* planes, const uint32_t* bits,
                                                   int64_t column_words, int columns, int blocks,
                                                   int begin, int end) {
#define LIFT_STAGE(stored, derived)                                                          \
  AccumulateStage<kColumns, stored, derived, derived>(acc, code, planes, bits, column_words, \
                                                      columns, blocks, begin, end)
  if constexpr (kAnyCode) {
    AccumulateStage<kColumns, 0, true, false>(acc, code, planes, bits, column_words, columns,
                                              blocks, begin, end);
  } else {
    switch (2 * code.stored + code.derived) {
      case 2:
        return LIFT_STAGE(1, false);
      case 3:
        return LIFT_STAGE(1, true);
      case 4:
        return LIFT_STAGE(2, false);
      case 5:
        return LIFT_STAGE(2, true);
      case 6:
        return LIFT_STAGE(3, false);
      case 7:
        return LIFT_STAGE(3, true);
      case 8:
        return LIFT_STAGE(4, false);
      case 9:
        return LIFT_STAGE(4, true);
    }
  }
#undef LIFT_STAGE
}

// Counts of bits -> sums of set signs, rows 2 g and 2 g + 1, written by the lanes of q = 0.
template <int kColumns>
__device__ __forceinline__ void StorePartials(const int (&acc)[kColumns][4],
                                              int (&partial)[kSignColumns][kSignRows]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    int rows[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < 4; ++i) rows[i / 2] += acc[c][i] * WeightOfBit(CountOf(lane, i).bit);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      rows[half] += __shfl_xor_sync(kAllLanes, rows[half], 1);
      rows[half] += __shfl_xor_sync(kAllLanes, rows[half], 2);
    }
    if (lane % 4 != 0) continue;
    partial[c][CountOf(lane, 0).row] = rows[0];
    partial[c][CountOf(lane, 2).row] = rows[1];
  }
}

// What one stage adds to a token's row, in the CPU's order of operations.
__device__ __forceinline__ float StageValue(const SlotTable& slot, float gain, int64_t token,
                                            int high, int low) {
  const float coefficient = __fmul_rn(gain, slot.scale[token]);
  const int high_product = 2 * high - slot.sums[2 * token];
  if (slot.wide[token] == 0) return __fmul_rn(coefficient, static_cast<float>(high_product));
  // Exact in double (below 2^45), then one rounding to float.
  const double low_product = 2 * low - slot.sums[2 * token + 1];
  return __fmul_rn(coefficient, static_cast<float>(128.0 * high_product + low_product));
}

// Row tile `tile` of `product` for tokens [first, first + kColumns / parts), those before `tokens`.
template <int kColumns, bool kAnyCode>
__device__ __forceinline__ void SignProductTile(const ProductSet& set, const ProductTable& product,
                                                int64_t tile, const uint8_t* variants, int parts,
                                                int64_t first, int64_t tokens,
                                                SignPartials& partials) {
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int blocks = static_cast<int>(set.blocks);
  const int here = static_cast<int>(min(tokens - first, static_cast<int64_t>(kColumns / parts)));
  const int groups = (blocks + kGroupTiles - 1) / kGroupTiles;
  const int each = (groups + kSignWarps - 1) / kSignWarps;
  const int begin = min(warp * each, groups), end = min(begin + each, groups);
  // Threads 0 .. 16 * here - 1 own one result each.
  const int mine = static_cast<int>(threadIdx.x) / kSignRows;
  const int64_t row = tile * kSignRows + static_cast<int>(threadIdx.x) % kSignRows;
  const bool writes = mine < here && row < product.rows;
  float y = 0;
  for (int j = 0; j < product.stages; ++j) {
    int64_t most = 0;
    for (int t = 0; t < here; ++t)
      most = max(most, product.stage_rows[variants[first + t] * product.stages + j]);
    if (tile * kSignRows >= most) continue;  // nobody reads these planes; they may be absent
    const StageTable& stage = set.stage[product.first_stage + j];
    const SlotTable& slot = set.slot[stage.slot];
    const int streams = slot.code.stored + slot.code.derived;
    const int64_t column_words = static_cast<int64_t>(blocks) * streams * kBits;
    int acc[kColumns][4] = {};
    AccumulateAnyStage<kColumns, kAnyCode>(
        acc, slot.code, stage.planes + tile * blocks * slot.code.stored * kTileWords * 4,
        slot.bits + first * parts * column_words, column_words, here * parts, blocks, begin, end);
    StorePartials<kColumns>(acc, partials[j & 1][warp]);
    __syncthreads();
    if (writes && row < product.stage_rows[variants[first + mine] * product.stages + j]) {
      int high = 0, low = 0;
      for (int w = 0; w < kSignWarps; ++w) {
        high += partials[j & 1][w][mine * parts][threadIdx.x % kSignRows];
        if (parts == 2) low += partials[j & 1][w][mine * 2 + 1][threadIdx.x % kSignRows];
      }
      y = __fadd_rn(y, StageValue(slot, stage.gain, first + mine, high, low));
    }
  }
  if (!writes) return;
  const float scale = __half2float(__ushort_as_half(product.row_scale[row]));
  product.y[(first + mine) * product.pitch + row] = __fmul_rn(scale, y);
}

}  // namespace lift::cuda
