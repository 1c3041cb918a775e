// The factor of a Hessian by which columns can be decided left to right.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/backend.h"
#include "kernels/base/thread_pool.h"

namespace lift {

// H + damping * I (on columns < live) = (I + U) diag(D) (I + U)^T with U strictly upper triangular:
// the weighted error of a row is sum_k D_k (e_k + sum_{s<k} U[s,k] e_s)^2.
struct LdlFactor {
  int64_t n = 0;
  std::vector<float> upper;     // U, row-major [n, n]; 0 on and below the diagonal and past live
  std::vector<float> diagonal;  // D [n]; 0 for dead (padding) columns

  // hessian: [n, n], of which the upper triangle is read and whose memory becomes U. In blocks of
  // columns, from the last to the first, n^3 / 3 operations in all, nearly all of them in
  // AddUpperProduct: the same bits for every thread count and ISA. Pivots are held above 1e-9.
  static LdlFactor Compute(std::vector<float> hessian, int64_t n, int64_t live, double damping,
                           Backend& backend, ThreadPool& pool);
};

}  // namespace lift
