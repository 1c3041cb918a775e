// The input rotation (kernels/format/rotation.h) by one block of threads, with the operations of
// the CPU in the CPU's order: the same bits. Included by .cu files only.
#pragma once

#include "kernels/cuda/device.h"

namespace lift::cuda {

// Tables of one Rotation in device memory; `signs` is null where nothing is rotated.
struct RotationView {
  const float* signs;    // [cols]
  const float* hartley;  // [odd, odd]
  int64_t cols;
  int32_t power, odd;
  float norm;  // 1 / sqrt(power)
  uint32_t unused;
};

// Up to here a thread holds a column of all blocks while it mixes them; beyond it needs the spare
// row.
inline constexpr int kMixInRegisters = 64;

// kStages strides of Walsh-Hadamard butterflies at once, from `h` on, over `n` floats.
template <int kStages>
__device__ __forceinline__ void ButterflyPass(float* x, int n, int h) {
  constexpr int kRadix = 1 << kStages;
  for (int i = static_cast<int>(threadIdx.x); i < n / kRadix; i += static_cast<int>(blockDim.x)) {
    float* at = x + i / h * (h * kRadix) + i % h;
    float v[kRadix];
#pragma unroll
    for (int k = 0; k < kRadix; ++k) v[k] = at[k * h];
#pragma unroll
    for (int stride = 1; stride < kRadix; stride *= 2) {
#pragma unroll
      for (int k = 0; k < kRadix; ++k) {
        if ((k & stride) != 0) continue;
        const float low = v[k], high = v[k + stride];
        v[k] = __fadd_rn(low, high);
        v[k + stride] = __fsub_rn(low, high);
      }
    }
#pragma unroll
    for (int k = 0; k < kRadix; ++k) at[k * h] = v[k];
  }
  __syncthreads();
}

// On every run of `power` floats of x [n]. Ends with a barrier.
__device__ __forceinline__ void Butterflies(float* x, int n, int power) {
  int h = 1;
  for (; h * 8 <= power; h *= 8) ButterflyPass<3>(x, n, h);
  if (h * 4 <= power) {
    ButterflyPass<2>(x, n, h);
  } else if (h * 2 <= power) {
    ButterflyPass<1>(x, n, h);
  }
}

// x <- (C_odd (x) I_power) x. spare: [cols], read only where odd > kMixInRegisters. Ends with a
// barrier.
__device__ __forceinline__ void MixBlocks(const RotationView& r, float* x, float* spare) {
  if (r.odd == 1) return;
  const int threads = static_cast<int>(blockDim.x), first = static_cast<int>(threadIdx.x);
  float held[kMixInRegisters];
  for (int k = first; k < r.power; k += threads) {
    const bool fits = r.odd <= kMixInRegisters;
    for (int j = 0; fits && j < r.odd; ++j) held[j] = x[j * r.power + k];
    for (int i = 0; i < r.odd; ++i) {
      const float* c = r.hartley + i * r.odd;
      float sum = __fmul_rn(c[0], fits ? held[0] : x[k]);
      for (int j = 1; j < r.odd; ++j)
        sum = __fadd_rn(sum, __fmul_rn(c[j], fits ? held[j] : x[j * r.power + k]));
      (fits ? x : spare)[i * r.power + k] = sum;
    }
    for (int i = 0; !fits && i < r.odd; ++i) x[i * r.power + k] = spare[i * r.power + k];
  }
  __syncthreads();
}

// out [cols] <- R x; x is device memory, out shared or device memory. Ends with a barrier.
__device__ __forceinline__ void Rotate(const RotationView& r, const float* x, float* out,
                                       float* spare) {
  const int cols = static_cast<int>(r.cols);
  for (int i = static_cast<int>(threadIdx.x); i < cols; i += static_cast<int>(blockDim.x))
    out[i] = r.signs == nullptr ? x[i] : __fmul_rn(x[i], __fmul_rn(r.signs[i], r.norm));
  __syncthreads();
  if (r.signs == nullptr) return;
  Butterflies(out, cols, r.power);
  MixBlocks(r, out, spare);
}

// x [cols] <- R^T x, in place. Ends with a barrier.
__device__ __forceinline__ void RotateBack(const RotationView& r, float* x, float* spare) {
  if (r.signs == nullptr) return;
  const int cols = static_cast<int>(r.cols);
  MixBlocks(r, x, spare);
  Butterflies(x, cols, r.power);
  for (int i = static_cast<int>(threadIdx.x); i < cols; i += static_cast<int>(blockDim.x))
    x[i] = __fmul_rn(x[i], __fmul_rn(r.signs[i], r.norm));
  __syncthreads();
}

// Where a block keeps a row while it works on it: dynamic shared memory if it fits, else its own
// part of `scratch`.
struct RowMemory {
  float* scratch;  // null: shared memory
  int64_t stride;  // floats of one block in `scratch`: the row, then the spare row
};
__device__ __forceinline__ float* RowOf(const RowMemory& memory, int64_t block) {
  return memory.scratch == nullptr ? DynamicShared<float>()
                                   : memory.scratch + block * memory.stride;
}

}  // namespace lift::cuda
