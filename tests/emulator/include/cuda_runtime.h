// Stands in for the CUDA toolkit's header where kernels are compiled for the emulator: the language
// that kernels are written in, and the few calls of the runtime that the backend makes. "Device
// memory" comes from the host's allocator, filled with noise.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "tests/emulator/simt.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __shared__ static thread_local

using dim3 = simt::Dim;
#define threadIdx (simt::Current().thread_idx)
#define blockIdx (simt::Current().block_idx)
#define blockDim (simt::Current().block_dim)
#define gridDim (simt::Current().grid_dim)

inline void __syncthreads() { simt::SyncBlock(); }
inline void __syncwarp(unsigned = 0xFFFFFFFFu) { simt::SyncWarp(); }
inline void __threadfence() {}
template <typename T>
T __shfl_sync(unsigned, T value, int lane) {
  return simt::FromLane(value, lane);
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return simt::FromLane(value, simt::Current().lane ^ mask);
}
template <typename T>
T __shfl_up_sync(unsigned, T value, unsigned delta) {
  const int from = simt::Current().lane - static_cast<int>(delta);
  return simt::FromLane(value, from < 0 ? simt::Current().lane : from);
}
template <typename T>
T __shfl_down_sync(unsigned, T value, unsigned delta) {
  const int from = simt::Current().lane + static_cast<int>(delta);
  return simt::FromLane(value, from > 31 ? simt::Current().lane : from);
}
inline unsigned __ballot_sync(unsigned, bool vote) {
  unsigned votes = 0;
  const simt::Published& all = simt::Exchange(&vote, sizeof(vote));
  for (int lane = 0; lane < simt::kWarp; ++lane) {
    bool one;
    std::memcpy(&one, all[lane], sizeof(one));
    votes |= static_cast<unsigned>(one) << lane;
  }
  return votes;
}

template <typename T>
T __ldg(const T* p) {
  return *p;
}
template <typename T>
T __ldcs(const T* p) {
  return *p;
}
template <typename T>
void __stcs(T* p, T value) {
  *p = value;
}
// One block's threads take turns, so plain additions are atomic.
template <typename T>
T atomicAdd(T* p, T value) {
  const T old = *p;
  *p = old + value;
  return old;
}
template <typename T>
T atomicMax(T* p, T value) {
  const T old = *p;
  *p = std::max(old, value);
  return old;
}

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __frcp_rn(float a) { return 1 / a; }
inline float __expf(float a) { return std::exp(a); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float a) { return 1 / std::sqrt(a); }
inline unsigned __float_as_uint(float f) { return std::bit_cast<unsigned>(f); }
inline int __float_as_int(float f) { return std::bit_cast<int>(f); }
inline float __uint_as_float(unsigned u) { return std::bit_cast<float>(u); }
inline float __int_as_float(int i) { return std::bit_cast<float>(i); }
inline int __float2int_rn(float f) { return static_cast<int>(std::nearbyint(f)); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  shift &= 31;
  return shift == 0 ? high : (high << shift | low >> (32 - shift));
}
using std::max;
using std::min;

struct int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// ---- the runtime's calls: work runs when it is queued, or when a captured graph is launched ----

enum cudaError_t { cudaSuccess = 0, cudaErrorMemoryAllocation = 2, cudaErrorInvalidValue = 1 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
inline constexpr unsigned cudaStreamNonBlocking = 1;

namespace simt {
struct Graph {
  std::vector<std::function<void()>> nodes;
};
struct Stream {
  Graph* capture = nullptr;
  void Do(std::function<void()> work) {
    if (capture != nullptr) {
      capture->nodes.push_back(std::move(work));
    } else {
      work();
    }
  }
};
// Bytes that cudaMalloc can give and has given. Of the whole program.
struct Memory {
  size_t total = size_t{8} << 30;
  std::atomic<size_t> used = 0;
};
Memory& DeviceMemory();
// Graphs launched so far.
std::atomic<uint64_t>& GraphsLaunched();
void* Allocate(size_t bytes);
void Release(void* p);

template <typename P>
cudaError_t Launch(const char* name, void (*kernel)(P), Dim grid, Dim block, size_t shared,
                   const P& params, Stream* stream) {
  stream->Do([=] { Run(name, grid, block, shared, [&] { kernel(params); }); });
  return cudaSuccess;
}
}  // namespace simt

using cudaStream_t = simt::Stream*;
using cudaGraph_t = simt::Graph*;
using cudaGraphExec_t = simt::Graph*;

struct cudaDeviceProp {
  char name[256] = "emulated GPU";
  int major = 9, minor = 0, multiProcessorCount = 4;
  size_t sharedMemPerBlockOptin = 227 << 10;
};

inline const char* cudaGetErrorString(cudaError_t) { return "emulated error"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = cudaDeviceProp();
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total) {
  *total = simt::DeviceMemory().total;
  *free_bytes = *total - simt::DeviceMemory().used;
  return cudaSuccess;
}
inline cudaError_t cudaMalloc(void** p, size_t bytes) {
  *p = simt::Allocate(bytes);
  return *p == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
inline cudaError_t cudaFree(void* p) {
  simt::Release(p);
  return cudaSuccess;
}
inline cudaError_t cudaMallocHost(void** p, size_t bytes) {
  *p = std::malloc(bytes);
  return *p == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
inline cudaError_t cudaFreeHost(void* p) {
  std::free(p);
  return cudaSuccess;
}
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new simt::Stream();
  return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                                   cudaStream_t stream) {
  stream->Do([=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}
inline cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                                     size_t width, size_t height, cudaMemcpyKind,
                                     cudaStream_t stream) {
  stream->Do([=] {
    for (size_t row = 0; row < height; ++row) {
      std::memcpy(static_cast<char*>(to) + row * to_pitch,
                  static_cast<const char*>(from) + row * from_pitch, width);
    }
  });
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  stream->Do([=] { std::memset(to, value, bytes); });
  return cudaSuccess;
}
inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  stream->capture = new simt::Graph();
  return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = stream->capture;
  stream->capture = nullptr;
  return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph,
                                        unsigned long long) {
  *exec = new simt::Graph(*graph);
  return cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t) {
  ++simt::GraphsLaunched();
  for (const auto& node : exec->nodes) node();
  return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
template <typename F>
cudaError_t cudaFuncSetAttribute(F, cudaFuncAttribute, int) {
  return cudaSuccess;
}
