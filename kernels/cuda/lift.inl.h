// The device code of lifting, shared by the kernels of plain and of expert layers.
#pragma once

#include "kernels/cuda/fragments.h"
#include "kernels/cuda/lifted_tables.h"

namespace lift::cuda {

inline constexpr int kLiftThreads = 256;

// u of one column and stream: a window of the rotated row, in the CPU's order of operations.
__device__ __forceinline__ float LiftAt(const CodeTable& code, const float* z, int r) {
  const int streams = code.stored + code.derived;
  float sum = __fmul_rn(code.taps[r], z[0]);
  for (int m = 1; m < code.steps; ++m)
    sum = __fadd_rn(sum, __fmul_rn(code.taps[m * streams + r], z[m]));
  return sum;
}

// One token of one slot. z: the rotated row with its tail. Called by a whole block.
__device__ __forceinline__ void QuantizeSlot(const SlotTable& slot, const float* z, int blocks,
                                             bool wide, int parts, int64_t token) {
  __shared__ uint32_t top;
  __shared__ int sums[2];
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize, warps = kLiftThreads / kWarpSize;
  const int streams = slot.code.stored + slot.code.derived;
  if (threadIdx.x == 0) top = 0, sums[0] = 0, sums[1] = 0;
  __syncthreads();
  uint32_t most = 0;  // bits of max |u|, where a NaN is above everything
  for (int i = warp; i < blocks * streams; i += warps) {
    const float u = LiftAt(slot.code, z + i / streams * 32 + lane, i % streams);
    most = max(most, __float_as_uint(u) & 0x7FFFFFFFu);
  }
  atomicMax(&top, most);
  __syncthreads();
  const float maximum = __uint_as_float(top), limit = wide ? 16256.0f : 127.0f;
  const bool finite = top < 0x7F800000u, usable = finite && maximum > 1e-30f;
  const float inverse = usable ? __fdiv_rn(limit, maximum) : 0.0f;
  uint32_t* high = slot.bits + token * parts * blocks * streams * kBits;
  uint32_t* low = high + static_cast<int64_t>(blocks) * streams * kBits;
  int high_sum = 0, low_sum = 0;
  for (int i = warp; i < blocks * streams; i += warps) {
    constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    const float u = finite ? LiftAt(slot.code, z + i / streams * 32 + lane, i % streams) : 0.0f;
    const int q = __float_as_int(__fadd_rn(__fmul_rn(u, inverse), kMagic)) - __float_as_int(kMagic);
    const int upper = wide ? (q + 64) >> 7 : q, lower = q - upper * 128;
    uint32_t mine = 0, mine_low = 0;
#pragma unroll
    for (int b = 0; b < kBits; ++b) {
      const uint32_t word = __ballot_sync(kAllLanes, (upper >> b & 1) != 0);
      const uint32_t word_low = wide ? __ballot_sync(kAllLanes, (lower >> b & 1) != 0) : 0;
      if (lane == b) mine = word, mine_low = word_low;
    }
    if (lane < kBits) {
      high[static_cast<int64_t>(i) * kBits + lane] = mine;
      if (wide) low[static_cast<int64_t>(i) * kBits + lane] = mine_low;
      high_sum += __popc(mine) * WeightOfBit(lane);
      low_sum += __popc(mine_low) * WeightOfBit(lane);
    }
  }
  atomicAdd(&sums[0], high_sum);
  atomicAdd(&sums[1], low_sum);
  __syncthreads();
  if (threadIdx.x != 0) return;
  slot.scale[token] =
      usable ? __fdiv_rn(maximum, limit) : (finite ? 0.0f : __uint_as_float(0x7FC00000u));
  slot.sums[2 * token] = sums[0];
  slot.sums[2 * token + 1] = sums[1];
  slot.wide[token] = wide ? 1 : 0;
}

// Token `token` of one slot from the row x [cols].
__device__ __forceinline__ void LiftSlotOf(const SiteTable& site, int slot, const float* x,
                                           uint8_t variant, int parts, int64_t token, float* z) {
  const int flag = variant * site.slots + slot;
  if (site.used[flag] == 0) return;
  const int padded = static_cast<int>(site.blocks) * 32, steps = site.slot[slot].code.steps;
  Rotate(site.rotation, x, z, z + padded + steps);
  for (int i = static_cast<int>(site.rotation.cols + threadIdx.x); i < padded;
       i += static_cast<int>(blockDim.x))
    z[i] = 0;
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < steps; i += static_cast<int>(blockDim.x))
    z[padded + i] = z[i % padded];
  __syncthreads();
  QuantizeSlot(site.slot[slot], z, static_cast<int>(site.blocks), site.wide_of[flag] != 0, parts,
               token);
}

}  // namespace lift::cuda
