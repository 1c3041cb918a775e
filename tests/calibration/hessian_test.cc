#include "calibration/hessian.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/cpu/cpu_backend.h"
#include "tests/calibration/gaussian.h"

namespace lift {
namespace {

TEST(Hessian, AccumulatesSecondMomentsAndRotatesThem) {
  const int64_t dim = 36, tokens = 50;
  ThreadPool pool(2);
  const auto backend = MakeCpuBackend(pool, CpuIsa::kPortable);
  const std::vector<float> x = Gaussian(dim * tokens, 2);
  Hessian h(dim);
  h.Accumulate(*backend, pool, x.data(), 20);
  h.Accumulate(*backend, pool, x.data() + 20 * dim, tokens - 20);
  EXPECT_EQ(h.tokens(), tokens);
  const Rotation rotation({true, 99}, dim);
  const std::vector<float> rotated = std::move(h).Rotated(rotation, 64, pool);
  // The same from rotated activations.
  std::vector<float> scratch(static_cast<size_t>(dim));
  std::vector<double> want(static_cast<size_t>(dim * dim), 0.0);
  double trace = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<float> row(x.begin() + t * dim, x.begin() + (t + 1) * dim);
    rotation.Apply(row.data(), scratch.data());
    for (int64_t i = 0; i < dim; ++i) {
      for (int64_t j = 0; j < dim; ++j)
        want[static_cast<size_t>(i * dim + j)] +=
            static_cast<double>(row[static_cast<size_t>(i)]) * row[static_cast<size_t>(j)];
      trace += static_cast<double>(row[static_cast<size_t>(i)]) * row[static_cast<size_t>(i)];
    }
  }
  for (int64_t i = 0; i < dim; ++i) {
    for (int64_t j = 0; j < dim; ++j) {
      EXPECT_NEAR(rotated[static_cast<size_t>(i * 64 + j)],
                  want[static_cast<size_t>(i * dim + j)] * dim / trace, 1e-4);
    }
  }
  EXPECT_EQ(rotated[63 * 64 + 63], 0.0f);
}

TEST(Hessian, OneLoudTokenDoesNotHideTheOthers) {
  const int64_t dim = 24, tokens = 400;
  ThreadPool pool(1);
  const auto backend = MakeCpuBackend(pool, CpuIsa::kPortable);
  std::vector<float> x = Gaussian(dim * tokens, 4);
  for (int64_t d = 0; d < dim; ++d) x[static_cast<size_t>(d)] = d == 7 ? 3000.0f : 0.0f;
  Hessian h(dim);
  h.Accumulate(*backend, pool, x.data(), tokens);
  const std::vector<float> sum = std::move(h).Rotated(Rotation({false, 0}, dim), 32, pool);
  // As it is, the token's column would have all 24 of the trace. Held to 32 tokens' worth it adds
  // 32 * 24 to a sum of 400 in its column, of 24 * (400 + 32) in all.
  EXPECT_NEAR(sum[7 * 32 + 7], (400 + 32 * 24) / (400 + 32.0), 0.4);
  EXPECT_NEAR(sum[3 * 32 + 3], 400 / (400 + 32.0), 0.2);
}

TEST(Hessian, AddIdentityWeighsTheMeanDiagonal) {
  ThreadPool pool(1);
  const auto backend = MakeCpuBackend(pool, CpuIsa::kPortable);
  const std::vector<float> x = {1, 0, 3,
                                0};  // two tokens of two inputs: H = diag(10, 0), mean diagonal 5
  Hessian h(2);
  h.Accumulate(*backend, pool, x.data(), 2);
  h.AddIdentity(1.0);
  const std::vector<float> plain = std::move(h).Rotated(Rotation({false, 0}, 2), 32, pool);
  EXPECT_NEAR(plain[0], 15.0f / 10, 1e-6);  // diag(15, 5) scaled to mean 1
  EXPECT_NEAR(plain[33], 5.0f / 10, 1e-6);
}

TEST(Hessian, WithoutDataEveryDirectionCountsAlike) {
  ThreadPool pool(1);
  Hessian h(12);
  const std::vector<float> rotated = std::move(h).Rotated(Rotation({true, 1}, 12), 32, pool);
  for (int i = 0; i < 12; ++i) EXPECT_EQ(rotated[static_cast<size_t>(i * 32 + i)], 1.0f);
}

}  // namespace
}  // namespace lift
