#include "calibration/ldl_factor.h"

#include <gtest/gtest.h>

#include <cmath>

#include "calibration/upper_product.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/calibration/gaussian.h"

namespace lift {
namespace {

// A symmetric matrix [n, n] of second moments of so many samples, one direction of which is loud.
std::vector<float> Moments(int64_t n, int64_t samples, uint64_t seed) {
  const std::vector<float> x = Gaussian(samples * n, seed), loud = Gaussian(n, seed + 1);
  std::vector<float> h(static_cast<size_t>(n * n));
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t t = 0; t < samples; ++t) sum += double{x[t * n + i]} * x[t * n + j];
      h[i * n + j] =
          static_cast<float>(sum / static_cast<double>(samples) + 0.5 * loud[i] * loud[j]);
    }
  }
  return h;
}

LdlFactor Factor(const std::vector<float>& h, int64_t n, int64_t live, double damping, int threads,
                 CpuIsa isa = CpuIsa::kAuto) {
  ThreadPool pool(threads);
  const auto backend = MakeCpuBackend(pool, isa);
  return LdlFactor::Compute(h, n, live, damping, *backend, pool);
}

// Sizes of one block, of just one more, and of several with a rest.
TEST(LdlFactor, ReproducesTheMatrix) {
  for (const int64_t n : {24, 256, 257, 700}) {
    const double damping = 0.2;
    const std::vector<float> h = Moments(n, n / 2, static_cast<uint64_t>(n));
    const LdlFactor f = Factor(h, n, n, damping, 2);
    double worst = 0;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = i; j < n; ++j) {
        double sum = 0;
        for (int64_t k = j; k < n; ++k)
          sum += (k == i ? 1.0 : f.upper[i * n + k]) * f.diagonal[k] *
                 (k == j ? 1.0 : f.upper[j * n + k]);
        worst = std::max(worst, std::abs(sum - h[i * n + j] - (i == j ? damping : 0)));
      }
    }
    EXPECT_LT(worst, 2e-5) << n;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j <= i; ++j) ASSERT_EQ(f.upper[i * n + j], 0.0f) << i << ", " << j;
    }
  }
}

TEST(LdlFactor, IsTheSameForAnyThreadsAndIsa) {
  const int64_t n = 544;
  const std::vector<float> h = Moments(n, 300, 3);
  const LdlFactor one = Factor(h, n, n, 0.1, 1, CpuIsa::kPortable), two = Factor(h, n, n, 0.1, 3);
  EXPECT_EQ(one.upper, two.upper);
  EXPECT_EQ(one.diagonal, two.diagonal);
}

TEST(LdlFactor, PaddingColumnsHaveNoWeight) {
  std::vector<float> h(32 * 32, 0.0f);
  for (int i = 0; i < 32; ++i) h[static_cast<size_t>(i * 32 + i)] = 1.0f;
  for (int i = 0; i < 31; ++i) h[static_cast<size_t>(i * 32 + i + 1)] = 0.25f;
  const LdlFactor f = Factor(h, 32, 20, 0.1, 1);
  EXPECT_GT(f.diagonal[19], 0);
  EXPECT_EQ(f.diagonal[20], 0);
  EXPECT_NE(f.upper[18 * 32 + 19], 0.0f);
  for (int i = 0; i < 32; ++i) {
    for (int j = 20; j < 32; ++j) EXPECT_EQ(f.upper[static_cast<size_t>(i * 32 + j)], 0.0f);
  }
}

// Fewer samples than columns: damping is all that many directions have.
TEST(LdlFactor, StandsRanksFarBelowTheColumns) {
  const int64_t n = 600;
  const LdlFactor f = Factor(Moments(n, 20, 8), n, n, 0.05, 2);
  for (float d : f.diagonal) EXPECT_GT(d, 0.049f);
  for (float u : f.upper) ASSERT_LT(std::abs(u), 50.0f);
}

TEST(UpperProduct, AddsOnAndAboveTheDiagonalOnly) {
  const int64_t n = 300, k = 33, stride = 310;
  const std::vector<float> a = Gaussian(n * k, 1), b = Gaussian(n * k, 2);
  std::vector<float> out(static_cast<size_t>(n * stride), 7.0f);
  ThreadPool pool(2);
  const auto backend = MakeCpuBackend(pool);
  AddUpperProduct(a.data(), b.data(), n, k, -1.0f, out.data(), stride, *backend, pool);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < stride; ++j) {
      double sum = 0;
      for (int64_t c = 0; c < k && j >= i && j < n; ++c) sum += double{a[i * k + c]} * b[j * k + c];
      ASSERT_NEAR(out[i * stride + j], 7.0 - sum, 1e-4) << i << ", " << j;
    }
  }
}

}  // namespace
}  // namespace lift
