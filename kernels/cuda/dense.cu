// Dense products. Columns are dealt to the 32 lanes of a warp in groups of eight: lane l has the
// columns 256 i + 8 l ... + 7 of every i, in ascending order, as one chain of fused multiply-adds
// for each output; columns past the last are zeros. Then lanes are added as WarpSum does. Both
// kernels follow this order.
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "kernels/base/check.h"
#include "kernels/base/decode_blocks.h"
#include "kernels/cuda/dense.h"
#include "kernels/cuda/device.h"

namespace lift::cuda {
namespace {

constexpr int kGroup = 8;  // columns that a lane decodes at once
constexpr int kPairs = kGroup / 2;
constexpr int kChunk = kGroup * kWarpSize;
constexpr unsigned kThreads = 256;
constexpr int kFewTokens = 8, kFewRows = 2;  // of a warp, where weights are used once
// Of a block, where decoded weights are used again.
constexpr int kTileRows = 16, kTileTokens = 32;
constexpr int kWarpRows = 8, kWarpTokens = 8;
constexpr size_t kTileBytes = sizeof(float) * kChunk * (kTileRows + kTileTokens);
static_assert(kTileRows / kWarpRows * (kTileTokens / kWarpTokens) * kWarpSize == kThreads);

// Formats whose elements stand alone.
struct F32 {
  using Bits = uint32_t;
  static constexpr int kElements = 1;
  static __device__ __forceinline__ float Widen(Bits bits) { return blocks::FromBits(bits); }
};
struct F16 {
  using Bits = uint16_t;
  static constexpr int kElements = 1;
  static __device__ __forceinline__ float Widen(Bits bits) { return blocks::WidenHalf(bits); }
};
struct BF16 {
  using Bits = uint16_t;
  static constexpr int kElements = 1;
  static __device__ __forceinline__ float Widen(Bits bits) {
    return blocks::FromBits(static_cast<uint32_t>(bits) << 16);
  }
};

// Activations, of which every element is aligned.
struct Activation : F32 {};

struct Matrix {
  const uint8_t* data;
  int64_t row_bytes;
  int32_t rows, cols;
  int64_t alignment;  // of every row, at most 16
};

template <typename Format>
__device__ __forceinline__ void LoadPlain(const Matrix& m, const uint8_t* row, int column,
                                          float (&w)[kGroup]) {
  using Bits = typename Format::Bits;
  constexpr int kSize = sizeof(Bits);
  const uint8_t* p = row + static_cast<int64_t>(column) * kSize;
  if (m.alignment == 16 && column + kGroup <= m.cols) {
    Bits bits[kGroup];
    uint4 words[kGroup * kSize / 16];
#pragma unroll
    for (int i = 0; i < kGroup * kSize / 16; ++i)
      words[i] = __ldg(reinterpret_cast<const uint4*>(p) + i);
    std::memcpy(bits, words, sizeof(bits));
#pragma unroll
    for (int j = 0; j < kGroup; ++j) w[j] = Format::Widen(bits[j]);
    return;
  }
#pragma unroll
  for (int j = 0; j < kGroup; ++j) {
    if (column + j >= m.cols) continue;
    // Other loads than __ldg would become loads of single bytes for both.
    const bool aligned = std::is_same_v<Format, Activation> || m.alignment >= kSize;
    w[j] = Format::Widen(aligned ? __ldg(reinterpret_cast<const Bits*>(p) + j)
                                 : blocks::Read<1, Bits>(p + j * kSize));
  }
}

// w[j] = element column + j of the row; zero from `cols` on.
template <typename Format>
__device__ __forceinline__ void LoadGroup(const Matrix& m, const uint8_t* row, int column,
                                          float (&w)[kGroup]) {
#pragma unroll
  for (int j = 0; j < kGroup; ++j) w[j] = 0;
  if (column >= m.cols) return;
  if constexpr (Format::kElements == 1) {
    LoadPlain<Format>(m, row, column, w);
  } else {
    const uint8_t* block = row + static_cast<int64_t>(column / Format::kElements) * Format::kBytes;
    const int first = column % Format::kElements;
    if (m.alignment >= Format::kAlignment) {
      Format::template Decode<kGroup, Format::kAlignment>(block, first, w);
    } else {
      Format::template Decode<kGroup, 1>(block, first, w);
    }
  }
}

struct MatmulParams {
  Matrix w, x;  // x: f32 [tokens][cols]
  float* y;
  int32_t row_tiles, token_tiles;
};

// Up to kTokens tokens: a warp takes kFewRows rows.
template <typename Format, int kTokens>
__global__ void __launch_bounds__(kThreads, kTokens == 1 ? 3 : 2)
    FewTokensKernel(const __grid_constant__ MatmulParams p) {
  constexpr int kValues = kFewRows * kTokens;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp = static_cast<int>(blockIdx.x * (kThreads / kWarpSize) + threadIdx.x / kWarpSize);
  const int row = warp * kFewRows;
  if (row >= p.w.rows) return;
  const uint8_t* at[kFewRows];
  for (int r = 0; r < kFewRows; ++r)
    at[r] = p.w.data + (row + r < p.w.rows ? row + r : row) * p.w.row_bytes;
  float sum[kValues] = {};  // [token][row]
#pragma unroll(kTokens == 1 ? 2 : 1)
  for (int c = kGroup * lane; c - kGroup * lane < p.w.cols; c += kChunk) {
    float w[kFewRows][kGroup];
#pragma unroll
    for (int r = 0; r < kFewRows; ++r) LoadGroup<Format>(p.w, at[r], c, w[r]);
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      if (t >= p.x.rows) break;
      float x[kGroup];
      LoadGroup<Activation>(p.x, p.x.data + t * p.x.row_bytes, c, x);
#pragma unroll
      for (int r = 0; r < kFewRows; ++r) {
#pragma unroll
        for (int j = 0; j < kGroup; ++j)
          sum[t * kFewRows + r] = __fmaf_rn(w[r][j], x[j], sum[t * kFewRows + r]);
      }
    }
  }
  SumOverLanes<kValues>(sum, lane);
  constexpr int kCopies = kWarpSize / kValues;  // lanes with the same sum
  const int value = lane / kCopies, t = value / kFewRows;
  const int r = row + value % kFewRows;
  if (lane % kCopies == 0 && t < p.x.rows && r < p.w.rows)
    p.y[static_cast<int64_t>(t) * p.w.rows + r] = sum[0];
}

// A chunk of columns of one row in shared memory: the first two columns of each lane's group, then
// the next two and so on, so that lanes read neighbouring words.
__device__ __forceinline__ void StoreGroup(float* row, int lane, const float (&v)[kGroup]) {
#pragma unroll
  for (int pair = 0; pair < kPairs; ++pair)
    reinterpret_cast<float2*>(row)[pair * kWarpSize + lane] =
        make_float2(v[2 * pair], v[2 * pair + 1]);
}

// sum [token][row] += the products of a chunk.
__device__ __forceinline__ void MultiplyChunk(const float2* w, const float2* x, int lane,
                                              float (&sum)[kWarpTokens * kWarpRows]) {
#pragma unroll 1  // more would not fit in registers
  for (int pair = 0; pair < kPairs; ++pair) {
    float2 weights[kWarpRows];
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) weights[r] = w[(r * kPairs + pair) * kWarpSize + lane];
#pragma unroll
    for (int t = 0; t < kWarpTokens; ++t) {
      const float2 inputs = x[(t * kPairs + pair) * kWarpSize + lane];
#pragma unroll
      for (int r = 0; r < kWarpRows; ++r) {
        float& total = sum[t * kWarpRows + r];
        total = __fmaf_rn(weights[r].y, inputs.y, __fmaf_rn(weights[r].x, inputs.x, total));
      }
    }
  }
}

// A block takes kTileRows x kTileTokens outputs, a warp kWarpRows x kWarpTokens of them. The tiles
// of the same rows are neighbours, so that weights come from the cache for all but the first.
template <typename Format>
__global__ void __launch_bounds__(kThreads, 2) TileKernel(const __grid_constant__ MatmulParams p) {
  constexpr int kWarps = kThreads / kWarpSize;
  float* const w_tile = DynamicShared<float>();
  float* const x_tile = w_tile + kTileRows * kChunk;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int first_row = static_cast<int>(blockIdx.x) / p.token_tiles * kTileRows;
  const int first_token = static_cast<int>(blockIdx.x) % p.token_tiles * kTileTokens;
  const int warp_row = warp % (kTileRows / kWarpRows) * kWarpRows;
  const int warp_token = warp / (kTileRows / kWarpRows) * kWarpTokens;
  float sum[kWarpTokens * kWarpRows] = {};
  for (int base = 0; base < p.w.cols; base += kChunk) {
    const int column = base + kGroup * lane;
    float group[kGroup];
#pragma unroll 1
    for (int r = warp; r < kTileRows; r += kWarps) {
      const int row = min(first_row + r, p.w.rows - 1);
      LoadGroup<Format>(p.w, p.w.data + row * p.w.row_bytes, column, group);
      StoreGroup(w_tile + r * kChunk, lane, group);
    }
    for (int t = warp; t < kTileTokens && first_token + t < p.x.rows; t += kWarps) {
      LoadGroup<Activation>(p.x, p.x.data + (first_token + t) * p.x.row_bytes, column, group);
      StoreGroup(x_tile + t * kChunk, lane, group);
    }
    __syncthreads();
    // Rows of the tile past the last token hold noise, which reaches no output.
    if (first_token + warp_token < p.x.rows) {
      MultiplyChunk(reinterpret_cast<const float2*>(w_tile + warp_row * kChunk),
                    reinterpret_cast<const float2*>(x_tile + warp_token * kChunk), lane, sum);
    }
    __syncthreads();
  }
  SumOverLanes<kWarpTokens * kWarpRows>(sum, lane);
  constexpr int kKept = kWarpTokens * kWarpRows / kWarpSize;
#pragma unroll
  for (int i = 0; i < kKept; ++i) {
    const int value = lane * kKept + i;
    const int t = first_token + warp_token + value / kWarpRows;
    const int r = first_row + warp_row + value % kWarpRows;
    if (t < p.x.rows && r < p.w.rows) p.y[static_cast<int64_t>(t) * p.w.rows + r] = sum[i];
  }
}

struct RowsParams {
  Matrix w;
  const int32_t* rows;
  float* out;
  int64_t count;
};

// A thread decodes a group of columns.
template <typename Format>
__global__ void __launch_bounds__(kThreads) RowsKernel(const __grid_constant__ RowsParams p) {
  const int64_t groups = (p.w.cols - 1) / kGroup + 1;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < p.count * groups;
       i += step) {
    const int64_t row = i / groups;
    const int column = static_cast<int>(i % groups) * kGroup;
    float values[kGroup];
    LoadGroup<Format>(p.w, p.w.data + p.rows[row] * p.w.row_bytes, column, values);
    float* out = p.out + row * p.w.cols + column;
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      if (column + j < p.w.cols) out[j] = values[j];
    }
  }
}

Matrix DescribeMatrix(const void* data, int64_t rows, int64_t cols, size_t row_bytes) {
  LIFT_CHECK(rows <= INT32_MAX - kChunk && cols <= INT32_MAX - kChunk);
  const auto low_bits = reinterpret_cast<uintptr_t>(data) | row_bytes | 16;
  return {static_cast<const uint8_t*>(data), static_cast<int64_t>(row_bytes),
          static_cast<int32_t>(rows), static_cast<int32_t>(cols),
          static_cast<int64_t>(low_bits & (~low_bits + 1))};
}

Matrix DescribeMatrix(const DenseMatrixView& w) {
  LIFT_CHECK(w.rows > 0 && w.cols > 0 && w.data != nullptr);
  return DescribeMatrix(w.data, w.rows, w.cols, w.row_bytes());
}

dim3 Grid(int64_t blocks) {
  LIFT_CHECK(blocks > 0 && blocks <= INT32_MAX);
  return {static_cast<unsigned>(blocks)};
}

int64_t Tiles(int64_t n, int64_t tile) { return (n + tile - 1) / tile; }

// visit(Format{}) for the format of `type`.
template <typename Visit>
void WithFormat(DType type, const Visit& visit) {
  switch (type) {
    case DType::kF32:
      return visit(F32{});
    case DType::kF16:
      return visit(F16{});
    case DType::kBF16:
      return visit(BF16{});
    case DType::kQ4_0:
      return visit(blocks::Q4_0{});
    case DType::kQ4_1:
      return visit(blocks::Q4_1{});
    case DType::kQ5_0:
      return visit(blocks::Q5_0{});
    case DType::kQ5_1:
      return visit(blocks::Q5_1{});
    case DType::kQ8_0:
      return visit(blocks::Q8_0{});
    case DType::kQ2_K:
      return visit(blocks::Q2_K{});
    case DType::kQ3_K:
      return visit(blocks::Q3_K{});
    case DType::kQ4_K:
      return visit(blocks::Q4_K{});
    case DType::kQ5_K:
      return visit(blocks::Q5_K{});
    case DType::kQ6_K:
      return visit(blocks::Q6_K{});
  }
  LIFT_CHECK(false);
}

}  // namespace

void QueueDenseMatmul(CommandQueue& queue, const DenseMatrixView& w, const float* x, int64_t tokens,
                      float* y) {
  if (tokens == 0) return;
  LIFT_CHECK(tokens > 0);
  const size_t x_bytes = sizeof(float) * static_cast<size_t>(w.cols);
  const int64_t row_tiles = Tiles(w.rows, kTileRows), token_tiles = Tiles(tokens, kTileTokens);
  const MatmulParams params = {DescribeMatrix(w), DescribeMatrix(x, tokens, w.cols, x_bytes), y,
                               static_cast<int32_t>(row_tiles), static_cast<int32_t>(token_tiles)};
  const dim3 few = Grid(Tiles(w.rows, kFewRows * (kThreads / kWarpSize)));
  const dim3 many = Grid(row_tiles * token_tiles);
  WithFormat(w.type, [&](auto format) {
    using Format = decltype(format);
    if (tokens == 1) {
      queue.Launch("a dense product", FewTokensKernel<Format, 1>, few, kThreads, 0, params);
    } else if (tokens <= kFewTokens) {
      queue.Launch("a dense product", FewTokensKernel<Format, kFewTokens>, few, kThreads, 0,
                   params);
    } else {
      queue.Launch("a dense product", TileKernel<Format>, many, kThreads, kTileBytes, params);
    }
  });
}

void QueueDenseRows(CommandQueue& queue, const DenseMatrixView& w, const int32_t* rows,
                    int64_t count, float* out) {
  if (count == 0) return;
  constexpr int64_t kMaxBlocks = 4096;  // threads loop
  const RowsParams params = {DescribeMatrix(w), rows, out, count};
  const dim3 grid = Grid(std::min(Tiles(count * Tiles(w.cols, kGroup), kThreads), kMaxBlocks));
  WithFormat(w.type, [&](auto format) {
    queue.Launch("decoding rows", RowsKernel<decltype(format)>, grid, kThreads, 0, params);
  });
}

}  // namespace lift::cuda
