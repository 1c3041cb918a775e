#include "calibration/lift_tensor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "calibration/codes.h"
#include "calibration/hessian.h"
#include "kernels/base/float16.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/calibration/gaussian.h"

namespace lift {
namespace {

std::vector<StageSpec> Chain(const std::vector<int>& bits) {
  std::vector<StageSpec> chain;
  for (size_t j = 0; j < bits.size(); ++j)
    chain.push_back({DefaultCode(bits[j]), j == 0 ? 0.3 : 0.03, j + 1 < bits.size() ? 1.1 : 1.0});
  return chain;
}

struct Lifted {
  LiftedTensorBits tensor;
  std::vector<float> w;
  Rotation rotation;
  std::vector<StageSpec> chain;
};

Lifted Lift(ThreadPool& pool, Backend& backend, int64_t rows, int64_t cols,
            const std::vector<int>& bits, double second_look = 0) {
  std::mt19937_64 random(17);
  std::normal_distribution<float> normal;
  std::vector<float> w(static_cast<size_t>(rows * cols));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c)
      w[static_cast<size_t>(r * cols + c)] =
          normal(random) * (0.01f + 0.02f * static_cast<float>(r % 5));
  }
  const RotationSpec spec{true, 5};
  Rotation rotation(spec, cols);
  const std::vector<StageSpec> chain = Chain(bits);
  const int64_t padded = PaddedColumns(cols);
  SiteMetric metric(Hessian(cols).Rotated(rotation, padded, pool), padded, cols, 48, true, backend,
                    pool);
  EncoderOptions options;
  options.beam = 32;
  options.second_look = second_look;
  LiftedTensorBits tensor =
      LiftTensor("t", w, rows, cols, rotation, spec, metric, chain, options, backend, pool);
  return {std::move(tensor), std::move(w), std::move(rotation), chain};
}

double RelativeError(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0, energy = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += std::pow(a[i] - b[i], 2);
    energy += std::pow(a[i], 2);
  }
  return error / energy;
}

TEST(LiftTensor, StagesMultiplyAndReconstructionMatchesTheReportedError) {
  ThreadPool pool(2);
  const auto backend = MakeCpuBackend(pool);
  for (int64_t cols : {288, 111}) {
    const Lifted lifted = Lift(pool, *backend, 37, cols, {2, 2, 2});
    ASSERT_EQ(lifted.tensor.error.size(), 4u);
    std::vector<float> out(lifted.w.size());
    const double bounds[] = {1.0, 0.11, 0.0145, 0.004};
    for (size_t stages = 1; stages <= 3; ++stages) {
      ReconstructTensor(lifted.tensor, lifted.chain, stages, lifted.rotation, pool, out.data());
      const double error = RelativeError(lifted.w, out);
      EXPECT_LT(error, bounds[stages]) << cols << " columns, " << stages << " stages";
      EXPECT_NEAR(error / lifted.tensor.error[stages], 1.0, 0.02);
    }
  }
}

// Rows in which the search went astray cost later stages most.
TEST(LiftTensor, ASecondLookHelpsLaterStages) {
  ThreadPool pool(2);
  const auto backend = MakeCpuBackend(pool);
  const Lifted once = Lift(pool, *backend, 96, 288, {2, 2, 2, 2});
  const Lifted twice = Lift(pool, *backend, 96, 288, {2, 2, 2, 2}, 4);
  EXPECT_LT(twice.tensor.error[1], once.tensor.error[1]);
  EXPECT_LT(twice.tensor.error[4], 0.9 * once.tensor.error[4]);
  std::vector<float> out(twice.w.size());
  ReconstructTensor(twice.tensor, twice.chain, 4, twice.rotation, pool, out.data());
  EXPECT_NEAR(RelativeError(twice.w, out) / twice.tensor.error[4], 1.0, 0.02);
}

TEST(LiftTensor, PlanesRoundTrip) {
  std::mt19937 random(4);
  std::vector<uint8_t> bits(37 * 96);
  for (auto& b : bits) b = random() & 7;
  const std::vector<uint8_t> planes = PackPlanes(bits, 37, 96, 3);
  EXPECT_EQ(planes.size(), 48u / 16 * 3 * 3 * 64);
  EXPECT_EQ(UnpackPlanes(planes, 37, 96, 3), bits);
  // Row 17, column 33, stored stream 1, by the byte diagram: tile row 1, block 1, stream 1, word 1,
  // bit 1.
  const size_t tile = (1 * 3 + 1) * 3 + 1;
  EXPECT_EQ(planes[tile * 64 + 4] >> 1 & 1, bits[17 * 96 + 33] >> 1 & 1);
}

TEST(LiftTensor, MetricsThatAreNotKeptAreTheSame) {
  ThreadPool pool(2);
  const auto backend = MakeCpuBackend(pool);
  const int64_t rows = 8, cols = 288;
  const std::vector<float> w = Gaussian(rows * cols, 4), x = Gaussian(400 * cols, 5);
  const RotationSpec spec{true, 5};
  const Rotation rotation(spec, cols);
  const std::vector<StageSpec> chain = MakeStages({2, 1, 1, 2});
  std::vector<LiftedTensorBits> lifted;
  for (const bool keep : {true, false}) {
    Hessian hessian(cols);
    hessian.Accumulate(*backend, pool, x.data(), 400);
    SiteMetric metric(std::move(hessian).Rotated(rotation, cols, pool), cols, cols, 48, keep,
                      *backend, pool);
    for (int tensor = 0; tensor < 2; ++tensor) {
      lifted.push_back(
          LiftTensor("t", w, rows, cols, rotation, spec, metric, chain, {}, *backend, pool));
    }
  }
  for (size_t i = 1; i < lifted.size(); ++i) {
    for (size_t j = 0; j < chain.size(); ++j)
      EXPECT_EQ(lifted[i].stages[j].planes, lifted[0].stages[j].planes) << i << ", stage " << j;
  }
}

TEST(LiftTensor, RowsOfZerosStayZero) {
  ThreadPool pool(1);
  const auto backend = MakeCpuBackend(pool, CpuIsa::kPortable);
  const int64_t cols = 64;
  const std::vector<float> w(static_cast<size_t>(3 * cols), 0.0f);
  const RotationSpec spec{true, 5};
  const Rotation rotation(spec, cols);
  const std::vector<StageSpec> chain = Chain({2});
  SiteMetric metric(Hessian(cols).Rotated(rotation, cols, pool), cols, cols, 0, true, *backend,
                    pool);
  const LiftedTensorBits tensor =
      LiftTensor("z", w, 3, cols, rotation, spec, metric, chain, {}, *backend, pool);
  std::vector<float> out(w.size(), 1.0f);
  ReconstructTensor(tensor, chain, 1, rotation, pool, out.data());
  for (float x : out) EXPECT_EQ(x, 0.0f);
}

}  // namespace
}  // namespace lift
