#include "calibration/ldl_factor.h"

#include <algorithm>
#include <memory>

#include "calibration/upper_product.h"
#include "kernels/base/check.h"

namespace lift {
namespace {

constexpr int64_t kBlock = 256;  // columns factored at a time
constexpr double kLeastPivot = 1e-9;

// The factor of a block [size, size] on the diagonal, in place: U above the diagonal, D on it.
void FactorBlock(std::vector<double>& a, int64_t size) {
  for (int64_t k = size - 1; k >= 0; --k) {
    double& pivot = a[static_cast<size_t>(k * size + k)];
    pivot = std::max(pivot, kLeastPivot);
    for (int64_t i = 0; i < k; ++i) {
      double* row = &a[static_cast<size_t>(i * size)];
      const double u = row[k] / pivot;
      for (int64_t j = i; j < k; ++j) row[j] -= u * a[static_cast<size_t>(j * size + k)];
    }
    for (int64_t i = 0; i < k; ++i) a[static_cast<size_t>(i * size + k)] /= pivot;
  }
}

// x <- x ((I + U)^T)^-1 for one row left of the block, by columns of U. columns: [size, size], row
// m the column m of U.
LIFT_VECTOR_CLONES void SolveRow(const float* columns, int64_t size, float* x) {
  for (int64_t m = size - 1; m > 0; --m) {
    const float* u = columns + m * size;
    const float value = x[m];
    for (int64_t k = 0; k < m; ++k) x[k] -= value * u[k];
  }
}

}  // namespace

LdlFactor LdlFactor::Compute(std::vector<float> hessian, int64_t n, int64_t live, double damping,
                             Backend& backend, ThreadPool& pool) {
  LIFT_CHECK(live <= n && live >= 1 && static_cast<int64_t>(hessian.size()) == n * n);
  LdlFactor out;
  out.n = n;
  out.upper = std::move(hessian);
  out.diagonal.assign(static_cast<size_t>(n), 0.0f);
  const auto row = [&](int64_t i) { return &out.upper[static_cast<size_t>(i * n)]; };
  for (int64_t i = 0; i < live; ++i) row(i)[i] += static_cast<float>(damping);
  std::vector<double> block;
  std::vector<float> columns;
  for (int64_t end = live; end > 0;) {
    const int64_t begin = std::max<int64_t>(0, end - kBlock), size = end - begin;
    block.assign(static_cast<size_t>(size * size), 0.0);
    for (int64_t i = 0; i < size; ++i)
      std::copy(row(begin + i) + begin + i, row(begin + i) + end,
                &block[static_cast<size_t>(i * size + i)]);
    FactorBlock(block, size);
    columns.assign(static_cast<size_t>(size * size), 0.0f);
    for (int64_t k = 0; k < size; ++k) {
      out.diagonal[static_cast<size_t>(begin + k)] =
          static_cast<float>(block[static_cast<size_t>(k * size + k)]);
      for (int64_t i = 0; i < k; ++i)
        columns[static_cast<size_t>(k * size + i)] = row(begin + i)[begin + k] =
            static_cast<float>(block[static_cast<size_t>(i * size + k)]);
    }
    // The columns above the block: first U D, then U; what they explain leaves the rest.
    const auto scaled = std::make_unique_for_overwrite<float[]>(static_cast<size_t>(begin * size)),
               plain = std::make_unique_for_overwrite<float[]>(static_cast<size_t>(begin * size));
    pool.ParallelFor(begin, 16, [&](int64_t first, int64_t last, int) {
      for (int64_t i = first; i < last; ++i) {
        float* x = &scaled[static_cast<size_t>(i * size)];
        std::copy_n(row(i) + begin, size, x);
        SolveRow(columns.data(), size, x);
        for (int64_t k = 0; k < size; ++k)
          plain[static_cast<size_t>(i * size + k)] = row(i)[begin + k] =
              x[k] / out.diagonal[static_cast<size_t>(begin + k)];
      }
    });
    if (begin > 0)
      AddUpperProduct(scaled.get(), plain.get(), begin, size, -1.0f, out.upper.data(), n, backend,
                      pool);
    end = begin;
  }
  for (int64_t i = 0; i < n; ++i) {
    std::fill(row(i), row(i) + std::min(i + 1, live), 0.0f);
    std::fill(row(i) + live, row(i) + n, 0.0f);
  }
  return out;
}

}  // namespace lift
