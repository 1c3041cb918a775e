#include <algorithm>

#include "kernels/cuda/device.h"
#include "kernels/cuda/vector_ops.h"

namespace lift::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kMaxBlocks = 4096;  // of grids whose threads loop

dim3 GridFor(int64_t n) {
  return {static_cast<unsigned>(
      std::clamp<int64_t>((n + kThreads - 1) / kThreads, 1, int64_t{kMaxBlocks}))};
}

__device__ __forceinline__ int64_t FirstIndex() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ int64_t IndexStep() {
  return static_cast<int64_t>(gridDim.x) * blockDim.x;
}

struct NormParams {
  const float* x;
  const float* gain;
  const float* bias;
  float* out;
  int64_t dim;
  float eps;
  uint32_t centered;
};

// One block a token.
__global__ void __launch_bounds__(kThreads) NormKernel(const __grid_constant__ NormParams p) {
  __shared__ float scratch[kWarpSize];
  const float* x = p.x + blockIdx.x * p.dim;
  float* out = p.out + blockIdx.x * p.dim;
  float mean = 0;
  if (p.centered != 0) {
    float sum = 0;
    for (int64_t i = threadIdx.x; i < p.dim; i += kThreads) sum += x[i];
    mean = BlockSum(sum, scratch) / static_cast<float>(p.dim);
  }
  float squares = 0;
  for (int64_t i = threadIdx.x; i < p.dim; i += kThreads) {
    const float centered = x[i] - mean;
    squares += centered * centered;
  }
  const float variance = BlockSum(squares, scratch) / static_cast<float>(p.dim);
  const float norm = 1.0f / sqrtf(variance + p.eps);
  for (int64_t i = threadIdx.x; i < p.dim; i += kThreads) {
    const float y = (x[i] - mean) * norm * p.gain[i];
    out[i] = p.bias == nullptr ? y : y + p.bias[i];
  }
}

struct ElementwiseParams {
  const float* a;
  const float* b;
  float* out;
  int64_t n, period;
  Elementwise op;
  float scale;
  uint32_t unused;
};

__device__ __forceinline__ float Apply(Elementwise op, float a, float b, float scale) {
  switch (op) {
    case Elementwise::kAdd:
      return a + b;
    case Elementwise::kMultiply:
      return a * b;
    case Elementwise::kSwiGlu:
      return a / (1.0f + expf(-a)) * b;
    case Elementwise::kGelu:
      return 0.5f * a * (1.0f + erff(a * 0.70710678118654752f));
    case Elementwise::kGeluTanh:
      return 0.5f * a * (1.0f + tanhf(0.79788456080286536f * (a + 0.044715f * a * a * a)));
    case Elementwise::kScale:
      return a * scale;
  }
  return 0;
}

__global__ void __launch_bounds__(kThreads)
    ElementwiseKernel(const __grid_constant__ ElementwiseParams p) {
  for (int64_t i = FirstIndex(); i < p.n; i += IndexStep()) {
    const float b = p.b == nullptr ? 0.0f : p.b[p.period == p.n ? i : i % p.period];
    p.out[i] = Apply(p.op, p.a[i], b, p.scale);
  }
}

struct RowsParams {
  const float* from;
  const int32_t* rows;
  const float* weights;
  float* to;
  int64_t count, dim;
};

__global__ void __launch_bounds__(kThreads) GatherRowsKernel(const __grid_constant__ RowsParams p) {
  for (int64_t i = FirstIndex(); i < p.count * p.dim; i += IndexStep())
    p.to[i] = p.from[p.rows[i / p.dim] * p.dim + i % p.dim];
}

__global__ void __launch_bounds__(kThreads)
    AddWeightedRowsKernel(const __grid_constant__ RowsParams p) {
  for (int64_t i = FirstIndex(); i < p.count * p.dim; i += IndexStep()) {
    const int64_t row = i / p.dim;
    p.to[p.rows[row] * p.dim + i % p.dim] += p.weights[row] * p.from[i];
  }
}

struct ColumnsParams {
  const float* x;
  float* out;
  int64_t tokens, pitch, cols;
};

__global__ void __launch_bounds__(kThreads)
    CopyColumnsKernel(const __grid_constant__ ColumnsParams p) {
  for (int64_t i = FirstIndex(); i < p.tokens * p.cols; i += IndexStep())
    p.out[i] = p.x[i / p.cols * p.pitch + i % p.cols];
}

struct RopeParams {
  float* x;
  const float* cos_sin;
  int64_t tokens, heads, head_dim, half, interleaved;
};

// One thread a pair.
__global__ void __launch_bounds__(kThreads) RopeKernel(const __grid_constant__ RopeParams p) {
  const int64_t pairs = p.tokens * p.heads * p.half;
  for (int64_t i = FirstIndex(); i < pairs; i += IndexStep()) {
    const int64_t pair = i % p.half, head = i / p.half, token = head / p.heads;
    float* x = p.x + head * p.head_dim;
    float& a = x[p.interleaved != 0 ? 2 * pair : pair];
    float& b = x[p.interleaved != 0 ? 2 * pair + 1 : pair + p.half];
    const float c = p.cos_sin[2 * p.half * token + pair];
    const float s = p.cos_sin[2 * p.half * token + p.half + pair];
    const float rotated = a * c - b * s;
    b = a * s + b * c;
    a = rotated;
  }
}

}  // namespace

void QueueRmsNorm(CommandQueue& queue, const float* x, const float* gain, float eps, int64_t tokens,
                  int64_t dim, float* out) {
  if (tokens == 0) return;
  queue.Launch("RMSNorm", NormKernel, dim3(static_cast<unsigned>(tokens)), dim3(kThreads), 0,
               NormParams{x, gain, nullptr, out, dim, eps, 0});
}

void QueueLayerNorm(CommandQueue& queue, const float* x, const float* gain, const float* bias,
                    float eps, int64_t tokens, int64_t dim, float* out) {
  if (tokens == 0) return;
  queue.Launch("LayerNorm", NormKernel, dim3(static_cast<unsigned>(tokens)), dim3(kThreads), 0,
               NormParams{x, gain, bias, out, dim, eps, 1});
}

void QueueElementwise(CommandQueue& queue, Elementwise op, const float* a, const float* b,
                      int64_t n, int64_t period, float scale, float* out) {
  if (n == 0) return;
  queue.Launch("an elementwise op", ElementwiseKernel, GridFor(n), dim3(kThreads), 0,
               ElementwiseParams{a, b, out, n, period, op, scale, 0});
}

void QueueGatherRows(CommandQueue& queue, const float* x, const int32_t* rows, int64_t count,
                     int64_t dim, float* out) {
  if (count == 0) return;
  queue.Launch("gathering rows", GatherRowsKernel, GridFor(count * dim), dim3(kThreads), 0,
               RowsParams{x, rows, nullptr, out, count, dim});
}

void QueueAddWeightedRows(CommandQueue& queue, float* x, const int32_t* rows, const float* weights,
                          int64_t count, const float* y, int64_t dim) {
  if (count == 0) return;
  queue.Launch("adding rows", AddWeightedRowsKernel, GridFor(count * dim), dim3(kThreads), 0,
               RowsParams{y, rows, weights, x, count, dim});
}

void QueueCopyColumns(CommandQueue& queue, const float* x, int64_t tokens, int64_t pitch,
                      int64_t cols, float* out) {
  if (tokens * cols == 0) return;
  queue.Launch("copying columns", CopyColumnsKernel, GridFor(tokens * cols), dim3(kThreads), 0,
               ColumnsParams{x, out, tokens, pitch, cols});
}

void QueueRope(CommandQueue& queue, float* x, int64_t tokens, int64_t heads, int64_t head_dim,
               int64_t rotary_dim, const float* cos_sin, bool interleaved) {
  const int64_t half = rotary_dim / 2;
  if (tokens * heads * half == 0) return;
  queue.Launch("rope", RopeKernel, GridFor(tokens * heads * half), dim3(kThreads), 0,
               RopeParams{x, cos_sin, tokens, heads, head_dim, half, interleaved ? 1 : 0});
}

}  // namespace lift::cuda
