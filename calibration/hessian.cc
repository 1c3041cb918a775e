#include "calibration/hessian.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "calibration/upper_product.h"
#include "kernels/base/check.h"

namespace lift {
namespace {

// A token's square norm counts up to so many times the median. Some models give single tokens (the
// first of a text) inputs a hundred times as large in one layer, where they are most of the sum:
// what follows norms them away, so a matrix fitted to them alone is bad for all other tokens.
constexpr float kLoudest = 32;

// Factors that hold tokens to it.
std::vector<float> TokenScales(const float* x, int64_t tokens, int64_t dim) {
  std::vector<float> squares(static_cast<size_t>(tokens));
  for (int64_t t = 0; t < tokens; ++t) {
    float lane[16] = {}, sum = 0;
    const float* row = x + t * dim;
    int64_t d = 0;
    for (; d + 16 <= dim; d += 16) {
      for (int j = 0; j < 16; ++j) lane[j] += row[d + j] * row[d + j];
    }
    for (; d < dim; ++d) sum += row[d] * row[d];
    for (float s : lane) sum += s;
    squares[static_cast<size_t>(t)] = sum;
  }
  std::vector<float> sorted = squares;
  const auto middle = sorted.begin() + tokens / 2;
  std::nth_element(sorted.begin(), middle, sorted.end());
  const float most = kLoudest * *middle;
  for (float& s : squares) s = most > 0 && s > most ? std::sqrt(most / s) : 1.0f;
  return squares;
}

}  // namespace

void Hessian::Accumulate(Backend& backend, ThreadPool& pool, const float* x, int64_t tokens) {
  if (tokens == 0) return;
  const auto transposed =
      std::make_unique_for_overwrite<float[]>(static_cast<size_t>(dim_ * tokens));
  const std::vector<float> scale = TokenScales(x, tokens, dim_);
  pool.ParallelFor(tokens, 64, [&](int64_t begin, int64_t end, int) {
    for (int64_t d = 0; d < dim_; ++d) {
      for (int64_t t = begin; t < end; ++t)
        transposed[static_cast<size_t>(d * tokens + t)] =
            scale[static_cast<size_t>(t)] * x[t * dim_ + d];
    }
  });
  AddUpperProduct(transposed.get(), transposed.get(), dim_, tokens, 1.0f, sum_.data(), dim_,
                  backend, pool);
  tokens_ += tokens;
}

void Hessian::AddIdentity(double weight) {
  double trace = 0;
  for (int64_t i = 0; i < dim_; ++i) trace += sum_[i * dim_ + i];
  const float add = static_cast<float>(weight * trace / static_cast<double>(dim_));
  for (int64_t i = 0; i < dim_; ++i) sum_[i * dim_ + i] += add;
}

std::vector<float> Hessian::Rotated(const Rotation& rotation, int64_t padded, ThreadPool& pool) && {
  LIFT_CHECK(padded >= dim_ && rotation.dimension() == dim_);
  std::vector<float> h = std::move(sum_);
  const auto at = [&](int64_t i, int64_t j) -> float& {
    return h[static_cast<size_t>(i * dim_ + j)];
  };
  for (int64_t i = 0; i < dim_; ++i) {
    for (int64_t j = 0; j < i; ++j) at(i, j) = at(j, i);
  }
  const auto rotate_rows = [&] {
    pool.ParallelFor(dim_, 16, [&](int64_t begin, int64_t end, int) {
      std::vector<float> scratch(static_cast<size_t>(dim_));
      for (int64_t r = begin; r < end; ++r) rotation.Apply(&at(r, 0), scratch.data());
    });
  };
  rotate_rows();  // H R^T
  for (int64_t i = 0; i < dim_; ++i) {
    for (int64_t j = 0; j < i; ++j) std::swap(at(i, j), at(j, i));
  }
  rotate_rows();  // (H R^T)^T R^T = R H R^T, symmetric
  double trace = 0;
  for (int64_t i = 0; i < dim_; ++i) trace += at(i, i);
  const double scale = trace > 0 ? static_cast<double>(dim_) / trace : 0.0;
  for (int64_t i = 0; i < dim_; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      at(i, j) = at(j, i) =
          static_cast<float>(0.5 * scale * (static_cast<double>(at(i, j)) + at(j, i)));
    }
    if (scale == 0) at(i, i) = 1.0f;
  }
  if (padded == dim_) return h;
  std::vector<float> out(static_cast<size_t>(padded * padded), 0.0f);
  for (int64_t i = 0; i < dim_; ++i)
    std::copy_n(&at(i, 0), dim_, &out[static_cast<size_t>(i * padded)]);
  return out;
}

}  // namespace lift
