#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "kernels/cuda/cublas_library.h"
#include "kernels/cuda/fragments.h"
#include "kernels/cuda/prefill.h"

namespace lift::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kTileRows = 16, kTileWords = 16;
constexpr int kChunkBlocks = 8;  // of 32 columns, decoded at once
constexpr int kRun = 8;          // neighbouring columns of one thread
constexpr int kPasses = kTileRows / kWarps;
constexpr int kChunksOfBlock = 4;  // that share the tables
constexpr int kMaxTableBits = 8;
constexpr size_t kExpandShared = 64 << 10;  // above it, smaller tables
static_assert(kChunkBlocks * 32 == kRun * kWarpSize);

size_t g_strip_bytes = size_t{64} << 20;

// Eight numbers to fp16, or to the two fp16 numbers whose sum is nearest.
__device__ __forceinline__ void StoreHalves(const Halves& out, int64_t at, const float (&v)[kRun]) {
  uint32_t high[kRun / 2], low[kRun / 2];
#pragma unroll
  for (int i = 0; i < kRun / 2; ++i) {
    const __half a = __float2half_rn(v[2 * i]), b = __float2half_rn(v[2 * i + 1]);
    high[i] = __half_as_ushort(a) | static_cast<uint32_t>(__half_as_ushort(b)) << 16;
    if (out.low == nullptr) continue;
    const __half c = __float2half_rn(__fsub_rn(v[2 * i], __half2float(a)));
    const __half d = __float2half_rn(__fsub_rn(v[2 * i + 1], __half2float(b)));
    low[i] = __half_as_ushort(c) | static_cast<uint32_t>(__half_as_ushort(d)) << 16;
  }
  *reinterpret_cast<uint4*>(out.high + at) = make_uint4(high[0], high[1], high[2], high[3]);
  if (out.low != nullptr)
    *reinterpret_cast<uint4*>(out.low + at) = make_uint4(low[0], low[1], low[2], low[3]);
}

struct RotateParams {
  RotationView rotation;
  int64_t blocks;
  const float* x;
  const int32_t* rows;
  RowMemory memory;
  Halves out;
  float* scale;
};

// A block a row.
__global__ void __launch_bounds__(kThreads)
    RotatePromptsKernel(const __grid_constant__ RotateParams p) {
  __shared__ uint32_t top;
  const int threads = static_cast<int>(blockDim.x), first = static_cast<int>(threadIdx.x);
  const int cols = static_cast<int>(p.rotation.cols), padded = static_cast<int>(p.blocks) * 32;
  float* z = RowOf(p.memory, blockIdx.x);
  if (first == 0) top = 0;
  Rotate(p.rotation, p.x + static_cast<int64_t>(p.rows[blockIdx.x]) * cols, z, z + padded);
  uint32_t most = 0;  // bits of max |z|, where a NaN is above everything
  for (int i = first; i < padded; i += threads) {
    if (i >= cols) z[i] = 0;
    most = max(most, __float_as_uint(z[i]) & 0x7FFFFFFFu);
  }
  atomicMax(&top, most);
  __syncthreads();
  const bool finite = top < 0x7F800000u, usable = finite && __uint_as_float(top) > 1e-30f;
  // 2^e <= max |z| < 2^(e + 1), so z * 2^(9 - e) is below 1024.
  const int e = static_cast<int>(top >> 23) - 127;
  const float inverse = usable ? __int_as_float((127 + 9 - e) << 23) : 0.0f;
  for (int i = first * kRun; i < padded; i += threads * kRun) {
    float v[kRun];
#pragma unroll
    for (int k = 0; k < kRun; ++k) v[k] = usable ? __fmul_rn(z[i + k], inverse) : 0.0f;
    StoreHalves(p.out, blockIdx.x * static_cast<int64_t>(padded) + i, v);
  }
  if (first != 0) return;
  const float scale = usable ? __int_as_float((127 + e - 9) << 23) : 0.0f;
  p.scale[blockIdx.x] = finite ? scale : __uint_as_float(0x7FC00000u);
}

struct ExpandParams {
  ExpandPlan plan;
  Halves out;
  int64_t first, end;
};

// The sums of taps for every run of signs. Bit b of an entry is the sign `bits` - 1 - b columns
// before the run's last.
__device__ void FillTables(const ExpandPlan& plan, float* tables) {
  for (int j = 0; j < plan.stages; ++j) {
    const ExpandStage& stage = plan.stage[j];
    const int streams = stage.code.stored + stage.code.derived;
    const int entries = (streams * stage.windows) << stage.bits;
    for (int i = static_cast<int>(threadIdx.x); i < entries; i += kThreads) {
      const int line = i >> stage.bits, r = line / stage.windows;
      const int last = (line % stage.windows + 1) * stage.bits - 1;
      float sum = 0;
      for (int b = 0; b < stage.bits; ++b) {
        if (last - b >= stage.code.steps) continue;
        const float tap = stage.code.taps[(last - b) * streams + r];
        sum += (i >> b & 1) != 0 ? tap : -tap;
      }
      tables[stage.table + i] = stage.gain * sum;
    }
  }
}

// words [streams][16][line]: the signs of a row tile from `halo` words before block `first` on;
// rows are circular.
__device__ __forceinline__ void LoadSigns(const ExpandPlan& plan, const ExpandStage& stage,
                                          int64_t tile, int first, uint32_t* words) {
  const int stored = stage.code.stored, derived = stage.code.derived, line = plan.line;
  const auto* planes =
      reinterpret_cast<const uint32_t*>(stage.planes) + tile * plan.blocks * stored * kTileWords;
  for (int i = static_cast<int>(threadIdx.x); i < stored * line * kTileRows; i += kThreads) {
    const int row = i % kTileRows, r = i / kTileRows % stored, w = i / kTileRows / stored;
    int block = (first - plan.halo + w) % plan.blocks;
    if (block < 0) block += plan.blocks;
    words[(r * kTileRows + row) * line + w] =
        __ldcs(planes + (static_cast<int64_t>(block) * stored + r) * kTileWords + row);
  }
  __syncthreads();
  if (derived == 0) return;
  for (int i = static_cast<int>(threadIdx.x); i < derived * line * kTileRows; i += kThreads) {
    const int w = i % line, row = i / line % kTileRows, k = i / line / kTileRows;
    uint32_t word = 0;
    for (int r = 0; w > 0 && r < stored; ++r) {
      const uint32_t* at = words + (r * kTileRows + row) * line + w;
      int s = 0;
      for (uint32_t mask = stage.code.masks[k][r]; mask != 0; mask >>= 1, ++s) {
        if ((mask & 1) != 0) word ^= __funnelshift_l(at[-1], at[0], s);
      }
    }
    words[((stored + k) * kTileRows + row) * line + w] = word;
  }
  __syncthreads();
}

// v += what a stage gives for this thread's run of columns in the warp's rows.
__device__ __forceinline__ void AddStage(const ExpandPlan& plan, const ExpandStage& stage,
                                         int64_t row, const uint32_t* words, const float* tables,
                                         float (&v)[kPasses][kRun]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int streams = stage.code.stored + stage.code.derived, bits = stage.bits;
  const uint32_t mask = (1u << bits) - 1;
  const float* table = tables + stage.table;
  for (int r = 0; r < streams; ++r) {
    int at = plan.halo * 32 + lane * kRun + 1 - bits;
    for (int k = 0; k < stage.windows; ++k, at -= bits, table += 1 << bits) {
#pragma unroll
      for (int pass = 0; pass < kPasses; ++pass) {
        if (row + pass * kWarps >= stage.rows) break;
        const uint32_t* pair = words + (r * kTileRows + warp + pass * kWarps) * plan.line + at / 32;
        const uint64_t both = static_cast<uint64_t>(pair[1]) << 32 | pair[0];
        const auto signs = static_cast<uint32_t>(both >> (at % 32));
#pragma unroll
        for (int i = 0; i < kRun; ++i) v[pass][i] += table[signs >> i & mask];
      }
    }
  }
}

// A block decodes a row tile, up to kChunksOfBlock chunks of its columns; a warp has rows `warp`
// and `warp` + 8 of a chunk, a lane eight columns of each.
__global__ void __launch_bounds__(kThreads) ExpandKernel(const __grid_constant__ ExpandParams p) {
  const ExpandPlan& plan = p.plan;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  float* tables = DynamicShared<float>();
  auto* words = reinterpret_cast<uint32_t*>(tables + plan.table_floats);
  const int buffer = plan.streams * kTileRows * plan.line;
  const int64_t tile = p.first / kTileRows + blockIdx.x, row = tile * kTileRows + warp;
  FillTables(plan, tables);
  int turn = 0;  // of two buffers: a stage fills one while the other is still read
  for (int first = static_cast<int>(blockIdx.y) * kChunkBlocks; first < plan.blocks;
       first += static_cast<int>(gridDim.y) * kChunkBlocks) {
    float v[kPasses][kRun] = {};
    for (int j = 0; j < plan.stages; ++j) {
      const ExpandStage& stage = plan.stage[j];
      if (tile * kTileRows >= stage.rows) continue;  // these planes may be absent
      uint32_t* signs = words + turn * buffer;
      turn ^= 1;
      LoadSigns(plan, stage, tile, first, signs);
      AddStage(plan, stage, row, signs, tables, v);
    }
    const int block = first + lane * kRun / 32;
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const int64_t mine = row + pass * kWarps;
      if (mine >= p.end || block >= plan.blocks) continue;
      StoreHalves(p.out, (mine - p.first) * plan.blocks * 32 + first * 32 + lane * kRun, v[pass]);
    }
  }
}

__global__ void __launch_bounds__(kThreads) OutputKernel(const __grid_constant__ PromptOutput p) {
  const int64_t r = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x, t = blockIdx.y;
  if (r >= p.rows) return;
  const float row_scale = __half2float(__ushort_as_half(p.row_scale[r]));
  p.y[p.places[t] * p.pitch + r] = p.sums[t * p.sums_pitch + r] * (p.scale[t] * p.unit) * row_scale;
}

struct ScatterParams {
  const float* from;
  const int32_t* places;
  float* y;
  int64_t rows, pitch;
};
__global__ void __launch_bounds__(kThreads) ScatterKernel(const __grid_constant__ ScatterParams p) {
  const int64_t r = blockIdx.y * static_cast<int64_t>(kThreads) + threadIdx.x, t = blockIdx.x;
  if (r < p.rows) p.y[p.places[t] * p.pitch + r] = p.from[t * p.rows + r];
}

unsigned BlocksOf(int64_t count) {
  return static_cast<unsigned>((count + kThreads - 1) / kThreads);
}

void CheckBlas(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  std::fprintf(stderr, "cuBLAS: %s failed: %s\n", what, FindCublas()->status_string(status));
  std::abort();
}

struct ProductParams {
  cublasContext* handle;
  void* workspace;
  const uint16_t *w, *x;
  float* sums;
  int32_t rows, columns, pitch;
  float beta;
};
void RunProduct(const ProductParams& p, cudaStream_t stream) {
  const float alpha = 1;
  CheckBlas(FindCublas()->set_stream(p.handle, stream), "choosing a stream");
  // Choosing a stream has dropped the workspace.
  CheckBlas(FindCublas()->set_workspace(p.handle, p.workspace, Blas::kWorkspaceBytes),
            "giving it memory");
  // For cuBLAS, whose matrices are column-major, the row-major ones are their transposes.
  CheckBlas(FindCublas()->gemm(p.handle, CUBLAS_OP_T, CUBLAS_OP_N, p.rows,
                               static_cast<int>(kPromptColumns), p.columns, &alpha, p.w, CUDA_R_16F,
                               p.columns, p.x, CUDA_R_16F, p.columns, &p.beta, p.sums, CUDA_R_32F,
                               p.pitch, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
            "a product");
}

}  // namespace

void SetPromptStripBytes(size_t bytes) { g_strip_bytes = bytes; }
size_t PromptStripBytes() { return g_strip_bytes; }

int64_t PromptRowFloats(const RotationView& rotation, int64_t blocks) {
  return blocks * 32 + (rotation.odd > kMixInRegisters ? rotation.cols : 0);
}

void QueueRotatePrompts(CommandQueue& queue, const RotationView& rotation, int64_t blocks,
                        const float* x, const int32_t* rows, int64_t count, float* scratch,
                        size_t shared_limit, const Halves& out, float* scale) {
  if (count == 0) return;
  const int64_t floats = PromptRowFloats(rotation, blocks);
  size_t shared = static_cast<size_t>(floats) * sizeof(float);
  if (shared > shared_limit) shared = 0;
  LIFT_CHECK(shared > 0 || scratch != nullptr);
  const RowMemory memory{shared > 0 ? nullptr : scratch, floats};
  queue.Launch("rotating prompts", RotatePromptsKernel, dim3(static_cast<unsigned>(count)),
               dim3(kThreads), shared, RotateParams{rotation, blocks, x, rows, memory, out, scale});
}

namespace {

size_t ExpandShared(const ExpandPlan& plan) {
  const int32_t words = 2 * plan.streams * kTileRows * plan.line;
  return static_cast<size_t>(plan.table_floats + words) * sizeof(float);
}

}  // namespace

void PlanTables(size_t shared_limit, ExpandPlan& plan) {
  for (int most = kMaxTableBits; most >= 1; --most) {
    plan.table_floats = plan.streams = 0;
    int32_t reach = 0;
    for (int j = 0; j < plan.stages; ++j) {
      ExpandStage& stage = plan.stage[j];
      const int32_t streams = stage.code.stored + stage.code.derived;
      stage.windows = (stage.code.steps + most - 1) / most;
      stage.bits = (stage.code.steps + stage.windows - 1) / stage.windows;
      stage.table = plan.table_floats;
      plan.table_floats += (streams * stage.windows) << stage.bits;
      plan.streams = std::max(plan.streams, streams);
      // Columns before the first that its window reaches; a derived sign reaches another word.
      const int32_t words = (stage.windows * stage.bits - 1 + 31) / 32;
      reach = std::max(reach, words + (stage.code.derived > 0 ? 1 : 0));
    }
    plan.halo = reach;
    plan.line = reach + kChunkBlocks + 1;  // a thread loads pairs of words
    if (ExpandShared(plan) <= kExpandShared) break;
  }
  LIFT_CHECK(ExpandShared(plan) <= shared_limit);
}

void QueueExpand(CommandQueue& queue, const ExpandPlan& plan, int64_t first, int64_t end,
                 const Halves& out) {
  LIFT_CHECK(first % kTileRows == 0 && first < end && end <= plan.rows);
  const int64_t tiles = (end - first + kTileRows - 1) / kTileRows;
  const int chunks = (plan.blocks + kChunkBlocks - 1) / kChunkBlocks;
  const int blocks = (chunks + kChunksOfBlock - 1) / kChunksOfBlock;
  queue.Launch("decoding weights", ExpandKernel,
               dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(blocks)), dim3(kThreads),
               ExpandShared(plan), ExpandParams{plan, out, first, end});
}

bool Blas::available() { return FindCublas() != nullptr; }
Blas::Blas() { CheckBlas(FindCublas()->create(&handle_), "making a handle"); }
Blas::~Blas() { FindCublas()->destroy(handle_); }

void Blas::QueueProduct(CommandQueue& queue, const Halves& w, const Halves& x, int64_t rows,
                        int64_t columns, void* workspace, float* sums, int64_t pitch) {
  ProductParams params{handle_,
                       workspace,
                       w.high,
                       x.high,
                       sums,
                       static_cast<int32_t>(rows),
                       static_cast<int32_t>(columns),
                       static_cast<int32_t>(pitch),
                       0};
  const auto add = [&](const uint16_t* of_w, const uint16_t* of_x) {
    params.w = of_w, params.x = of_x;
    queue.Call("a product of prompts", RunProduct, params);
    params.beta = 1;
  };
  if (w.low != nullptr) add(w.low, x.high);
  if (x.low != nullptr) add(w.high, x.low);
  add(w.high, x.high);
}

void QueuePromptOutput(CommandQueue& queue, const PromptOutput& output, int64_t count) {
  LIFT_CHECK(count <= kPromptColumns);
  queue.Launch("prompts' outputs", OutputKernel,
               dim3(BlocksOf(output.rows), static_cast<unsigned>(count)), dim3(kThreads), 0,
               output);
}

void QueueScatterRows(CommandQueue& queue, const float* from, const int32_t* places, int64_t count,
                      int64_t rows, int64_t pitch, float* y) {
  if (count == 0) return;
  queue.Launch("scattering rows", ScatterKernel, dim3(static_cast<unsigned>(count), BlocksOf(rows)),
               dim3(kThreads), 0, ScatterParams{from, places, y, rows, pitch});
}

}  // namespace lift::cuda
