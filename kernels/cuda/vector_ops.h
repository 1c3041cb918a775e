// Norms, activations and copies on the GPU. Arguments are those of the ops of the same names in
// kernels/backend.h; every pointer is device memory. Queued, not waited for.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/cuda/command_queue.h"

namespace lift::cuda {

void QueueRmsNorm(CommandQueue& queue, const float* x, const float* gain, float eps, int64_t tokens,
                  int64_t dim, float* out);
void QueueLayerNorm(CommandQueue& queue, const float* x, const float* gain, const float* bias,
                    float eps, int64_t tokens, int64_t dim, float* out);

enum class Elementwise : int64_t {
  kAdd,       // out = a + b
  kMultiply,  // out = a * b
  kSwiGlu,    // out = silu(a) * b
  kGelu,      // out = a Phi(a)
  kGeluTanh,
  kScale,  // out = a * scale
};
// b: n elements, or `period` of them again and again; null where the op takes none.
void QueueElementwise(CommandQueue& queue, Elementwise op, const float* a, const float* b,
                      int64_t n, int64_t period, float scale, float* out);

// `rows`, `weights`: device memory of `count` entries.
void QueueGatherRows(CommandQueue& queue, const float* x, const int32_t* rows, int64_t count,
                     int64_t dim, float* out);
void QueueAddWeightedRows(CommandQueue& queue, float* x, const int32_t* rows, const float* weights,
                          int64_t count, const float* y, int64_t dim);
void QueueCopyColumns(CommandQueue& queue, const float* x, int64_t tokens, int64_t pitch,
                      int64_t cols, float* out);
void QueueRope(CommandQueue& queue, float* x, int64_t tokens, int64_t heads, int64_t head_dim,
               int64_t rotary_dim, const float* cos_sin, bool interleaved);

}  // namespace lift::cuda
