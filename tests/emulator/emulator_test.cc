// The emulator itself: what a kernel's threads see, barriers, exchanges, and what goes wrong.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <vector>

namespace {

constexpr simt::Order kOrders[] = {simt::Order::kAscending, simt::Order::kDescending,
                                   simt::Order::kShuffled};

TEST(Emulator, ThreadsSeeTheirPlace) {
  std::vector<int> seen(2 * 3 * 4 * 5);
  simt::Run("places", {2, 3}, {4, 5}, 0, [&] {
    const unsigned block = blockIdx.y * gridDim.x + blockIdx.x;
    ++seen[(block * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x];
  });
  EXPECT_EQ(seen, std::vector<int>(seen.size(), 1));
}

TEST(Emulator, BarriersOrderSharedMemory) {
  for (const simt::Order order : kOrders) {
    simt::SetOrder(order);
    std::vector<int> out(96);
    simt::Run("reverse", {1}, {96}, 96 * sizeof(int), [&] {
      auto* shared = static_cast<int*>(simt::DynamicShared());
      shared[threadIdx.x] = static_cast<int>(threadIdx.x);
      __syncthreads();
      out[threadIdx.x] = shared[95 - threadIdx.x];
    });
    for (int i = 0; i < 96; ++i) EXPECT_EQ(out[static_cast<size_t>(i)], 95 - i);
  }
  simt::SetOrder(simt::Order::kAscending);
}

TEST(Emulator, AMissingBarrierShowsUnderSomeOrder) {
  int wrong = 0;
  for (const simt::Order order : kOrders) {
    simt::SetOrder(order);
    simt::Run("race", {1}, {64}, 64 * sizeof(int), [&] {
      auto* shared = static_cast<int*>(simt::DynamicShared());
      shared[threadIdx.x] = static_cast<int>(threadIdx.x);
      wrong += shared[63 - threadIdx.x] != static_cast<int>(63 - threadIdx.x);
    });
  }
  simt::SetOrder(simt::Order::kAscending);
  EXPECT_GT(wrong, 0);
}

TEST(Emulator, ShufflesExchangeWithinAWarp) {
  for (const simt::Order order : kOrders) {
    simt::SetOrder(order);
    std::vector<int> sums(64), up(64);
    simt::Run("shuffles", {1}, {64}, 0, [&] {
      int sum = static_cast<int>(threadIdx.x);
      for (int mask = 1; mask < 32; mask *= 2) sum += __shfl_xor_sync(~0u, sum, mask);
      sums[threadIdx.x] = sum;
      up[threadIdx.x] = __shfl_up_sync(~0u, static_cast<int>(threadIdx.x), 1);
    });
    for (size_t i = 0; i < 64; ++i) {
      EXPECT_EQ(sums[i], i < 32 ? 496 : 496 + 32 * 32);
      EXPECT_EQ(up[i], static_cast<int>(i % 32 == 0 ? i : i - 1));
    }
  }
  simt::SetOrder(simt::Order::kAscending);
}

TEST(Emulator, MmaCountsTheCommonBits) {
  // Word (row, w) of A and (column, w) of B, 32 columns each, by the PTX ISA's figures for
  // m16n8k256.
  uint32_t a[16][8], b[8][8];
  for (unsigned i = 0; i < 128; ++i) a[i / 8][i % 8] = i * 2654435761u;
  for (unsigned i = 0; i < 64; ++i) b[i / 8][i % 8] = i * 40503u * 65599u + 17;
  int product[16][8] = {};
  simt::Run("mma", {1}, {32}, 0, [&] {
    const int lane = static_cast<int>(threadIdx.x), g = lane / 4, q = lane % 4;
    const uint32_t fa[4] = {a[g][q], a[g + 8][q], a[g][q + 4], a[g + 8][q + 4]};
    const uint32_t fb[2] = {b[g][q], b[g][q + 4]};
    int d[4] = {1, 1, 1, 1};
    simt::MmaAndPopc(d, fa, fb);
    for (int i = 0; i < 4; ++i) product[g + i / 2 * 8][2 * q + i % 2] = d[i];
  });
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      int want = 1;
      for (int w = 0; w < 8; ++w) want += __popc(a[row][w] & b[column][w]);
      EXPECT_EQ(product[row][column], want) << row << " " << column;
    }
  }
}

TEST(EmulatorDeathTest, ABarrierThatSomeNeverReachIsReported) {
  EXPECT_DEATH(simt::Run("lonely", {1}, {64}, 0,
                         [] {
                           if (threadIdx.x < 32) __syncwarp();
                           if (threadIdx.x == 40) {
                             __syncwarp();
                           } else {
                             __syncthreads();
                           }
                         }),
               "lonely: 63 threads wait at a block's barrier and 1 at a warp's");
}

TEST(EmulatorDeathTest, TooManyThreadsAreRefused) {
  EXPECT_DEATH(simt::Run("wide", {1}, {1025}, 0, [] {}), "wide: a grid of .* cannot be launched");
}

}  // namespace
