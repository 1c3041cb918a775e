// Second moments of layer inputs, and their factors as the encoder uses them.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/backend.h"
#include "kernels/base/thread_pool.h"
#include "kernels/format/rotation.h"

namespace lift {

// H = sum over tokens of x x^T of one layer input, where very loud tokens are held to a multiple of
// the median of those given together. Row-major [dim, dim], symmetric.
class Hessian {
 public:
  explicit Hessian(int64_t dim) : dim_(dim), sum_(static_cast<size_t>(dim * dim), 0.0f) {}
  int64_t dim() const { return dim_; }
  int64_t tokens() const { return tokens_; }
  // Adds X^T X for x [tokens, dim].
  void Accumulate(Backend& backend, const float* x, int64_t tokens);
  // Adds `weight` times the mean diagonal to the diagonal.
  void AddIdentity(double weight);
  // R H R^T, scaled so that its mean diagonal is 1; [padded, padded] with zeros past dim. All zero
  // inputs give the identity.
  std::vector<float> Rotated(const Rotation& rotation, int64_t padded, ThreadPool& pool) const;

 private:
  int64_t dim_, tokens_ = 0;
  std::vector<float> sum_;
};

// H + damping * I (on columns < live) = (I + U) diag(D) (I + U)^T with U strictly upper triangular:
// the weighted error of a row is sum_k D_k (e_k + sum_{s<k} U[s,k] e_s)^2, so columns can be
// decided left to right.
struct LdlFactor {
  int64_t n = 0;
  std::vector<float> upper;     // U, row-major [n, n]
  std::vector<float> diagonal;  // D [n]; 0 for dead (padding) columns
  static LdlFactor Compute(const float* hessian, int64_t stride, int64_t n, int64_t live,
                           double damping);
};

}  // namespace lift
