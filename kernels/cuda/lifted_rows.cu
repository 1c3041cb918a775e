#include "kernels/cuda/fragments.h"
#include "kernels/cuda/lifted_rows.h"

namespace lift::cuda {
namespace {

constexpr int kThreads = 256;

struct RowsParams {
  ProductSet set;
  RotationView rotation;
  const int32_t* rows;
  const int32_t* places;
  const uint8_t* variants;
  float* out;
  RowMemory memory;
};

// Words [streams][blocks] of one row of a stage, stored ones first.
__device__ void LoadWords(const CodeTable& code, const uint8_t* planes, int blocks, int row,
                          uint32_t* words) {
  const int threads = static_cast<int>(blockDim.x), first = static_cast<int>(threadIdx.x);
  for (int i = first; i < code.stored * blocks; i += threads) {
    const int r = i / blocks, block = i % blocks;
    words[i] = reinterpret_cast<const uint32_t*>(
        planes)[(static_cast<int64_t>(block) * code.stored + r) * 16 + row];
  }
  __syncthreads();
  for (int i = first; i < code.derived * blocks; i += threads) {
    const int k = i / blocks, block = i % blocks, before = block == 0 ? blocks - 1 : block - 1;
    uint32_t word = 0;
    for (int r = 0; r < code.stored; ++r) {
      for (int s = 0; s < 8; ++s) {
        if ((code.masks[k][r] >> s & 1) != 0)
          word ^= Earlier(words[r * blocks + block], words[r * blocks + before], s);
      }
    }
    words[code.stored * blocks + i] = word;
  }
  __syncthreads();
}

// A block a row, with the operations of the CPU in the CPU's order.
__global__ void __launch_bounds__(kThreads) LiftedRowsKernel(const __grid_constant__ RowsParams p) {
  const int threads = static_cast<int>(blockDim.x), first = static_cast<int>(threadIdx.x);
  const int blocks = static_cast<int>(p.set.blocks), padded = blocks * 32;
  const ProductTable& product = p.set.product[0];
  const int64_t row = p.rows[blockIdx.x];
  const int variant = p.variants[blockIdx.x];
  float* v = RowOf(p.memory, blockIdx.x);
  auto* words = reinterpret_cast<uint32_t*>(v + padded);
  for (int t = first; t < padded; t += threads) v[t] = 0;
  for (int j = 0; j < product.stages; ++j) {
    if (row >= product.stage_rows[variant * product.stages + j]) continue;
    const StageTable& stage = p.set.stage[j];
    const CodeTable& code = p.set.slot[stage.slot].code;
    const int streams = code.stored + code.derived;
    LoadWords(code, stage.planes + row / 16 * blocks * code.stored * 64, blocks,
              static_cast<int>(row % 16), words);
    for (int t = first; t < padded; t += threads) {
      float sum = 0;
      for (int m = 0; m < code.steps; ++m) {
        const int at = ((t - m) % padded + padded) % padded;
        for (int r = 0; r < streams; ++r) {
          const float tap = code.taps[m * streams + r];
          const bool set = (words[r * blocks + at / 32] >> (at % 32) & 1) != 0;
          sum = __fadd_rn(sum, set ? tap : -tap);
        }
      }
      v[t] = __fadd_rn(v[t], __fmul_rn(stage.gain, sum));
    }
    __syncthreads();
  }
  const int cols = static_cast<int>(p.rotation.cols);
  const float scale = __half2float(__ushort_as_half(product.row_scale[row]));
  for (int t = first; t < cols; t += threads) v[t] = __fmul_rn(scale, v[t]);
  __syncthreads();
  RotateBack(p.rotation, v, v + padded);
  float* out = p.out + static_cast<int64_t>(p.places[blockIdx.x]) * cols;
  for (int t = first; t < cols; t += threads) out[t] = v[t];
}

}  // namespace

int64_t LiftedRowFloats(const ProductSet& set, const RotationView& rotation) {
  const int64_t spare = rotation.odd > kMixInRegisters ? rotation.cols : 0;
  const int64_t words = kMaxCodeStreams * set.blocks;
  return set.blocks * 32 + (words > spare ? words : spare);
}

void QueueLiftedRows(CommandQueue& queue, const ProductSet& set, const RotationView& rotation,
                     const int32_t* rows, const int32_t* places, const uint8_t* variants,
                     int64_t count, float* scratch, size_t shared_limit, float* out) {
  if (count == 0) return;
  const int64_t floats = LiftedRowFloats(set, rotation);
  size_t shared = static_cast<size_t>(floats) * sizeof(float);
  if (shared > shared_limit) shared = 0;
  LIFT_CHECK(set.products == 1 && (shared > 0 || scratch != nullptr));
  queue.Launch("decoding rows", LiftedRowsKernel, dim3(static_cast<unsigned>(count)),
               dim3(kThreads), shared,
               RowsParams{set, rotation, rows, places, variants, out,
                          RowMemory{shared > 0 ? nullptr : scratch, floats}});
}

}  // namespace lift::cuda
