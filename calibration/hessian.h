// Second moments of layer inputs.
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
  void Accumulate(Backend& backend, ThreadPool& pool, const float* x, int64_t tokens);
  // Adds `weight` times the mean diagonal to the diagonal.
  void AddIdentity(double weight);
  // R H R^T, scaled so that its mean diagonal is 1; [padded, padded] with zeros past dim. All zero
  // inputs give the identity. The sums are given up: for wide inputs they are most of the memory.
  std::vector<float> Rotated(const Rotation& rotation, int64_t padded, ThreadPool& pool) &&;

 private:
  int64_t dim_, tokens_ = 0;
  std::vector<float> sum_;  // the upper triangle
};

}  // namespace lift
