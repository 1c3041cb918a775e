// Runs CUDA kernels on the CPU: every thread of a block is a fiber, barriers and warp exchanges
// switch between them. Blocks run one after the other; threads of the host may each run some. For
// tests: what a kernel computes, that all its threads reach its barriers, and (in the asan preset)
// that it stays inside its memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

namespace simt {

struct Dim {
  unsigned x = 1, y = 1, z = 1;
  constexpr Dim(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// The order in which threads that can run do so. A kernel that lacks a barrier gives other results
// under another order.
enum class Order { kAscending, kDescending, kShuffled };
void SetOrder(Order order);

inline constexpr int kWarp = 32;

// What the running thread sees.
struct Thread {
  Dim thread_idx, block_idx, block_dim, grid_dim;
  int lane = 0;
};
const Thread& Current();
void* DynamicShared();  // of the running block; contents are noise at first

// __syncthreads: every thread of the block that has not returned.
void SyncBlock();
// __syncwarp over all threads of the warp.
void SyncWarp();

// The bytes that each lane of the warp publishes, until the next exchange but one.
inline constexpr size_t kExchangeBytes = 64;
using Published = std::byte[kWarp][kExchangeBytes];
const Published& Exchange(const void* value, size_t bytes);

// value of lane `lane` of the warp (modulo its size).
template <typename T>
T FromLane(T value, int lane) {
  static_assert(sizeof(T) <= kExchangeBytes);
  T out;
  std::memcpy(&out, Exchange(&value, sizeof(T))[lane & (kWarp - 1)], sizeof(T));
  return out;
}

// The warp's D += popcount(A & B), A 16 x 256 bits and B 256 x 8 bits, on the fragments that the
// PTX ISA gives each lane of mma.m16n8k256 with .b1 and .and.popc.
void MmaAndPopc(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

// Runs `body` as every thread of every block. Aborts, naming the kernel, when threads wait for a
// barrier that the others never reach.
void Run(const char* kernel, Dim grid, Dim block, size_t shared_bytes,
         const std::function<void()>& body);

// Threads run so far, for tests that want to know that something ran.
uint64_t ThreadsRun();

}  // namespace simt
