#include "calibration/hessian.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/check.h"

namespace lift {
namespace {

// Dot product in eight fixed lanes: the same sum on every machine, and the compiler can vectorize
// it.
LIFT_VECTOR_CLONES double Dot(const double* a, const double* b, int64_t n) {
  double lane[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int j = 0; j < 8; ++j) lane[j] += a[i + j] * b[i + j];
  }
  double sum = 0;
  for (; i < n; ++i) sum += a[i] * b[i];
  for (double x : lane) sum += x;
  return sum;
}

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

void Hessian::Accumulate(Backend& backend, const float* x, int64_t tokens) {
  if (tokens == 0) return;
  std::vector<float> transposed(static_cast<size_t>(dim_ * tokens)),
      product(static_cast<size_t>(dim_ * dim_));
  const std::vector<float> scale = TokenScales(x, tokens, dim_);
  constexpr int64_t kBlock = 64;
  for (int64_t t0 = 0; t0 < tokens; t0 += kBlock) {
    for (int64_t d = 0; d < dim_; ++d) {
      for (int64_t t = t0; t < std::min(tokens, t0 + kBlock); ++t)
        transposed[d * tokens + t] = scale[static_cast<size_t>(t)] * x[t * dim_ + d];
    }
  }
  const DenseMatrixView view{DType::kF32, dim_, tokens,
                             reinterpret_cast<const std::byte*>(transposed.data())};
  backend.DenseMatmul(view, transposed.data(), dim_, product.data());
  for (size_t i = 0; i < product.size(); ++i) sum_[i] += product[i];
  tokens_ += tokens;
}

void Hessian::AddIdentity(double weight) {
  double trace = 0;
  for (int64_t i = 0; i < dim_; ++i) trace += sum_[i * dim_ + i];
  const float add = static_cast<float>(weight * trace / static_cast<double>(dim_));
  for (int64_t i = 0; i < dim_; ++i) sum_[i * dim_ + i] += add;
}

std::vector<float> Hessian::Rotated(const Rotation& rotation, int64_t padded,
                                    ThreadPool& pool) const {
  LIFT_CHECK(padded >= dim_ && rotation.dimension() == dim_);
  std::vector<float> h = sum_;
  const auto rotate_rows = [&] {
    pool.ParallelFor(dim_, 16, [&](int64_t begin, int64_t end, int) {
      std::vector<float> scratch(static_cast<size_t>(dim_));
      for (int64_t r = begin; r < end; ++r) rotation.Apply(&h[r * dim_], scratch.data());
    });
  };
  rotate_rows();  // H R^T
  for (int64_t i = 0; i < dim_; ++i) {
    for (int64_t j = 0; j < i; ++j) std::swap(h[i * dim_ + j], h[j * dim_ + i]);
  }
  rotate_rows();  // (H R^T)^T R^T = R H R^T, symmetric
  double trace = 0;
  for (int64_t i = 0; i < dim_; ++i) trace += h[i * dim_ + i];
  std::vector<float> out(static_cast<size_t>(padded * padded), 0.0f);
  const double scale = trace > 0 ? static_cast<double>(dim_) / trace : 0.0;
  for (int64_t i = 0; i < dim_; ++i) {
    for (int64_t j = 0; j < dim_; ++j) {
      out[i * padded + j] = static_cast<float>(
          0.5 * scale * (static_cast<double>(h[i * dim_ + j]) + h[j * dim_ + i]));
    }
    if (scale == 0) out[i * padded + i] = 1.0f;
  }
  return out;
}

LdlFactor LdlFactor::Compute(const float* hessian, int64_t stride, int64_t n, int64_t live,
                             double damping) {
  LIFT_CHECK(live <= n && live >= 1);
  // Cholesky of the index-reversed matrix: lower C with A = C C^T, A(i, j) = H(live-1-i, live-1-j).
  // Rows end at the diagonal: this is most of the memory that lifting a wide layer takes.
  std::vector<double> c(static_cast<size_t>(live * (live + 1) / 2));
  const auto row = [&](int64_t j) { return &c[static_cast<size_t>(j * (j + 1) / 2)]; };
  for (int64_t j = 0; j < live; ++j) {
    double* cj = row(j);
    const auto a = [&](int64_t i, int64_t k) {
      return static_cast<double>(hessian[(live - 1 - i) * stride + (live - 1 - k)]) +
             (i == k ? damping : 0.0);
    };
    for (int64_t k = 0; k < j; ++k) cj[k] = (a(j, k) - Dot(cj, row(k), k)) / row(k)[k];
    const double pivot = a(j, j) - Dot(cj, cj, j);
    cj[j] = std::sqrt(std::max(pivot, 1e-9));
  }
  LdlFactor out;
  out.n = n;
  out.upper.assign(static_cast<size_t>(n * n), 0.0f);
  out.diagonal.assign(static_cast<size_t>(n), 0.0f);
  for (int64_t k = 0; k < live; ++k) {
    const int64_t ck = live - 1 - k;
    const double d = row(ck)[ck];
    out.diagonal[k] = static_cast<float>(d * d);
    for (int64_t s = 0; s < k; ++s)
      out.upper[s * n + k] = static_cast<float>(row(live - 1 - s)[ck] / d);
  }
  return out;
}

}  // namespace lift
