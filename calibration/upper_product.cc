#include "calibration/upper_product.h"

#include <algorithm>
#include <memory>

namespace lift {

void AddUpperProduct(const float* a, const float* b, int64_t n, int64_t k, float sign, float* out,
                     int64_t stride, Backend& backend, ThreadPool& pool) {
  constexpr int64_t kBlock = 256;  // rows; the triangle is covered with so much of a step
  const auto product =
      std::make_unique_for_overwrite<float[]>(static_cast<size_t>(std::min(n, kBlock) * n));
  for (int64_t first = 0; first < n; first += kBlock) {
    const int64_t rows = std::min(kBlock, n - first), width = n - first;
    const DenseMatrixView right{DType::kF32, width, k,
                                reinterpret_cast<const std::byte*>(b + first * k)};
    backend.DenseMatmul(right, a + first * k, rows, product.get());
    pool.ParallelFor(rows, 16, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const float* from = &product[static_cast<size_t>(i * width)];
        float* to = out + (first + i) * stride + first;
        for (int64_t j = i; j < width; ++j) to[j] += sign * from[j];
      }
    });
  }
}

}  // namespace lift
