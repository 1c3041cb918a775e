#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "kernels/base/check.h"
#include "kernels/cuda/fragments.h"
#include "kernels/cuda/sign_gemm.h"

namespace lift::cuda {
namespace {

constexpr int kWarps = 8;  // warps of a block split the columns of one row tile

// D += A (u8, 16 x 32) B (s8, 32 x 8); PTX ISA, mma.m16n8k32.
__device__ __forceinline__ void MmaU8S8(int (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                        uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 "
      "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The lane's two plane words (rows g and g + 8) of one tile.
struct Words {
  uint32_t low, high;
};

__device__ __forceinline__ Words LoadWords(const uint8_t* tile, int row) {
  const uint32_t* words = reinterpret_cast<const uint32_t*>(tile);
  return {__ldcs(words + row), __ldcs(words + row + 8)};
}

// One stream of one group: four mma over its 128 columns.
__device__ __forceinline__ void Accumulate(int (&acc)[4], Words w, const int8_t* activations) {
  const uint4 first = __ldg(reinterpret_cast<const uint4*>(activations));
  const uint4 second = __ldg(reinterpret_cast<const uint4*>(activations) + 1);
  const uint32_t u[8] = {first.x,  first.y,  first.z,  first.w,
                         second.x, second.y, second.z, second.w};
#pragma unroll
  for (int i = 0; i < 8; i += 2) {
    const uint32_t a[4] = {(w.low >> i) & 0x01010101u, (w.high >> i) & 0x01010101u,
                           (w.low >> (i + 1)) & 0x01010101u, (w.high >> (i + 1)) & 0x01010101u};
    MmaU8S8(acc, a, u[i], u[i + 1]);
  }
}

// acc += this warp's groups of one stage.
__device__ void AccumulateStage(const SignStage& s, int64_t blocks, int64_t row_tile, int warp,
                                int lane, int tokens, int (&acc)[4]) {
  const LaneRole role = RoleOfLane(lane);
  const int streams = s.stored + s.derived;
  const uint8_t* row = s.planes + row_tile * blocks * s.stored * 64;
  const bool has_token = role.row < tokens;
  const int8_t* token = s.activations + (has_token ? role.row : 0) * blocks * streams * 32;
  for (int64_t group = warp; group * kGroupTiles < blocks; group += kWarps) {
    const int64_t block = group * kGroupTiles + role.tile;
    const bool inside = block < blocks;  // mma wants every lane: lanes past the end multiply zeros
    const int64_t at = inside ? block : 0,
                  before = (at + blocks - 1) % blocks;  // rows are circular
    Words word[kMaxStored], previous[kMaxStored];
#pragma unroll
    for (int r = 0; r < kMaxStored; ++r) {
      if (r >= s.stored) break;
      word[r] = LoadWords(row + (at * s.stored + r) * 64, role.row);
      if (s.derived > 0) previous[r] = LoadWords(row + (before * s.stored + r) * 64, role.row);
      if (!inside) word[r] = {0, 0};
      Accumulate(acc, word[r], token + (at * streams + r) * 32);
    }
#pragma unroll
    for (int k = 0; k < kMaxDerived; ++k) {
      if (k >= s.derived) break;
      Words parity = {0, 0};
#pragma unroll
      for (int r = 0; r < kMaxStored; ++r) {
        if (r >= s.stored) break;
        parity.low ^= ParityWord(word[r].low, previous[r].low, s.masks[k][r]);
        parity.high ^= ParityWord(word[r].high, previous[r].high, s.masks[k][r]);
      }
      if (!inside) parity = {0, 0};
      Accumulate(acc, parity, token + (at * streams + s.stored + k) * 32);
    }
  }
}

__global__ void __launch_bounds__(kWarps * 32)
    SignGemmKernel(const __grid_constant__ SignGemm gemm) {
  __shared__ int partial[kWarps][4][32];
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int64_t row_tile = blockIdx.x;
  // Threads 0..127 each own one output cell: k = thread / 32, lane = thread % 32.
  const Cell cell = CellOf(lane, warp & 3);
  const int64_t row = row_tile * 16 + cell.row;
  const bool writes = warp < 4 && cell.token < gemm.tokens && row < gemm.rows;
  float y = 0;
  for (int j = 0; j < gemm.stages; ++j) {
    const SignStage& s = gemm.stage[j];
    int acc[4] = {0, 0, 0, 0};
    AccumulateStage(s, gemm.blocks, row_tile, warp, lane, gemm.tokens, acc);
    for (int k = 0; k < 4; ++k) partial[warp][k][lane] = acc[k];
    __syncthreads();
    if (writes && row < s.rows_read[cell.token]) {
      int sum = 0;
      for (int w = 0; w < kWarps; ++w) sum += partial[w][warp][lane];
      const float product = static_cast<float>(2 * sum - s.sum[cell.token]);
      y = __fadd_rn(y, __fmul_rn(__fmul_rn(s.gain, s.scale[cell.token]), product));
    }
    __syncthreads();
  }
  if (writes)
    gemm.y[static_cast<int64_t>(cell.token) * gemm.rows + row] =
        __half2float(__ushort_as_half(gemm.row_scale[row])) * y;
}

absl::Status ToStatus(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::UnavailableError(std::string(what) + ": " + cudaGetErrorString(error));
}

}  // namespace

absl::Status LaunchSignGemm(const SignGemm& gemm, void* stream) {
  LIFT_CHECK(gemm.rows > 0 && gemm.blocks > 0 && gemm.tokens >= 1 && gemm.tokens <= kMaxTokens);
  LIFT_CHECK(gemm.stages >= 1 && gemm.stages <= kMaxStagesPerLaunch);
  for (int j = 0; j < gemm.stages; ++j) {
    LIFT_CHECK(gemm.stage[j].stored >= 1 && gemm.stage[j].stored <= kMaxStored &&
               gemm.stage[j].derived <= kMaxDerived);
  }
  const unsigned tiles = static_cast<unsigned>((gemm.rows + 15) / 16);
  SignGemmKernel<<<tiles, kWarps * 32, 0, static_cast<cudaStream_t>(stream)>>>(gemm);
  return ToStatus(cudaGetLastError(), "the sign product was refused");
}

absl::StatusOr<std::string> DescribeDevice() {
  int count = 0;
  if (absl::Status status = ToStatus(cudaGetDeviceCount(&count), "no usable CUDA device");
      !status.ok())
    return status;
  if (count == 0) return absl::UnavailableError("no usable CUDA device: the driver lists none");
  cudaDeviceProp properties{};
  if (absl::Status status =
          ToStatus(cudaGetDeviceProperties(&properties, 0), "the CUDA device does not answer");
      !status.ok())
    return status;
  if (properties.major < 8)
    return absl::UnavailableError(std::string(properties.name) +
                                  " is older than compute capability 8.0");
  return std::string(properties.name);
}

}  // namespace lift::cuda
