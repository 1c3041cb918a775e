// Dense matrices on the GPU, of any stored type. Queued, not waited for.
#pragma once

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/cuda/command_queue.h"

namespace lift::cuda {

// y[t] = W x[t]; x: [tokens, cols], y: [tokens, rows]; every pointer, w.data too, is device memory.
// An output is the sum of 32 chains of fused multiply-adds, in an order that depends on the columns
// alone: the same bits whatever the number of tokens.
void QueueDenseMatmul(CommandQueue& queue, const DenseMatrixView& w, const float* x, int64_t tokens,
                      float* y);
// out [count][cols] = the rows of w that `rows`, in device memory, names; equal to the bit to
// Dequantize.
void QueueDenseRows(CommandQueue& queue, const DenseMatrixView& w, const int32_t* rows,
                    int64_t count, float* out);

}  // namespace lift::cuda
