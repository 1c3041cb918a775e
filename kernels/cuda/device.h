// What kernels share: tensor core products, warp and block sums, dynamic shared memory. Included by
// .cu files only. Compiled by nvcc, or against the emulator of tests/emulator, which runs kernels
// on the CPU.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace lift::cuda {

inline constexpr int kWarpSize = 32;
inline constexpr unsigned kAllLanes = 0xFFFFFFFFu;

#if defined(__CUDACC__)
extern __shared__ __align__(16) unsigned char lift_dynamic_shared[];
#endif

// The block's dynamic shared memory, 16-byte aligned.
template <typename T>
__device__ __forceinline__ T* DynamicShared() {
#if defined(__CUDACC__)
  return reinterpret_cast<T*>(lift_dynamic_shared);
#else
  return static_cast<T*>(simt::DynamicShared());
#endif
}

// D += popcount(A & B), A 16 x 256 bits, B 256 x 8 bits; fragments as the PTX ISA lays them out for
// mma.m16n8k256. One instruction (BMMA) on compute capability 8 and 9; later ones emulate it.
__device__ __forceinline__ void MmaAndPopc(int (&d)[4], const uint32_t (&a)[4],
                                           const uint32_t (&b)[2]) {
#if defined(__CUDACC__)
  asm volatile(
      "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc "
      "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  simt::MmaAndPopc(d, a, b);
#endif
}

__device__ __forceinline__ float WarpSum(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}

__device__ __forceinline__ float WarpMax(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
    x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, offset));
  return x;
}

// Adds the values of 2 * kOffset neighbouring lanes, in the order of WarpSum. With every exchange a
// lane keeps half of its values: afterwards v[i] is the sum of value
// lane * kValues / (2 * kOffset) + i.
template <int kValues, int kOffset = kWarpSize / 2>
__device__ __forceinline__ void SumOverLanes(float* v, int lane) {
  if constexpr (kOffset > 0) {
    constexpr int kKept = kValues > 1 ? kValues / 2 : 1;
    const bool upper = (lane & kOffset) != 0;
#pragma unroll
    for (int i = 0; i < kKept; ++i) {
      const float low = v[i], high = v[kValues > 1 ? i + kKept : i];
      v[i] = (upper ? high : low) + __shfl_xor_sync(kAllLanes, upper ? low : high, kOffset);
    }
    SumOverLanes<kKept, kOffset / 2>(v, lane);
  }
}

// Of all threads of the block, in a fixed order, given to every one. `scratch`: 32 floats of shared
// memory, free again after the caller's next barrier. Blocks are whole warps.
__device__ __forceinline__ float BlockSum(float x, float* scratch) {
  const int warps = static_cast<int>(blockDim.x + kWarpSize - 1) / kWarpSize;
  x = WarpSum(x);
  if (threadIdx.x % kWarpSize == 0) scratch[threadIdx.x / kWarpSize] = x;
  __syncthreads();
  float sum = 0;
  for (int w = 0; w < warps; ++w) sum += scratch[w];
  __syncthreads();
  return sum;
}

}  // namespace lift::cuda
