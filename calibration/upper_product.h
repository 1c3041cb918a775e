// Products of long thin matrices whose result is symmetric: only its upper triangle is computed.
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/base/thread_pool.h"

namespace lift {

// out(i, j) += sign * sum_k a(i, k) b(j, k) for j >= i; what lies below the diagonal is left alone.
// a, b: [n, k] row-major; out: rows `stride` floats apart; sign: 1 or -1. The sums are
// DenseMatmul's, so they are the same bits for every thread count and ISA. Takes 256 * n floats for
// a while.
void AddUpperProduct(const float* a, const float* b, int64_t n, int64_t k, float sign, float* out,
                     int64_t stride, Backend& backend, ThreadPool& pool);

}  // namespace lift
