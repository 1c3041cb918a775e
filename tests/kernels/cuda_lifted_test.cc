// Lifted layers of the CUDA backend: against the oracles, and to the bit against the CPU. On the
// emulator, or on a GPU where the tests are compiled for one.
#include <gtest/gtest.h>

#include "kernels/reference/reference.h"
#include "tests/kernels/cuda_device.h"
#include "tests/kernels/kernel_tables.h"
#include "tests/kernels/lifted_case.h"

namespace lift {
namespace {

class CudaLifted : public testing::TestWithParam<Shape> {
 protected:
  void SetUp() override { LIFT_SKIP_WITHOUT_CUDA(backend_); }
  std::unique_ptr<Backend> backend_;
};

std::vector<float> OnCpu(const RandomLifted& lifted, const std::vector<float>& x,
                         const std::vector<uint8_t>& variants) {
  ThreadPool pool(1);
  return Multiply(*cpu::MakeCpuBackendOn(pool, cpu::PortableKernels()), lifted, x, variants);
}

TEST_P(CudaLifted, MatmulMatchesOracle) {
  const Shape& shape = GetParam();
  const RandomLifted lifted = MakeLifted(shape, 11);
  const std::vector<float> x = RandomFloats(shape.tokens * shape.cols, 5);
  const std::vector<uint8_t> variants = MixedVariants(shape.tokens);
  const auto want =
      reference::LiftedMatmul(lifted.matrix, lifted.site, lifted.rotation_spec, x, variants);
  EXPECT_EQ(reference::Mismatch(Multiply(*backend_, lifted, x, variants), want), "");
}

TEST_P(CudaLifted, MatmulHasTheBitsOfTheCpuInEveryBatch) {
  const Shape& shape = GetParam();
  const RandomLifted lifted = MakeLifted(shape, 13);
  const std::vector<float> x = RandomFloats(shape.tokens * shape.cols, 6);
  const std::vector<uint8_t> variants = MixedVariants(shape.tokens);
  const std::vector<float> want = OnCpu(lifted, x, variants);
  InEveryOrder([&] { EXPECT_TRUE(SameBits(Multiply(*backend_, lifted, x, variants), want)); });
  for (int64_t first = 1; first < shape.tokens; ++first) {  // the tokens from `first` on, alone
    const std::vector<float> part(x.begin() + first * shape.cols, x.end());
    const std::vector<uint8_t> part_variants(variants.begin() + first, variants.end());
    const std::vector<float> y = Multiply(*backend_, lifted, part, part_variants);
    EXPECT_TRUE(SameBits(y, std::span(want).subspan(static_cast<size_t>(first * shape.rows))));
  }
}

TEST_P(CudaLifted, RowsHaveTheBitsOfTheCpu) {
  const Shape& shape = GetParam();
  const RandomLifted lifted = MakeLifted(shape, 12);
  ThreadPool pool(1);
  const auto cpu = cpu::MakeCpuBackendOn(pool, cpu::PortableKernels());
  std::vector<Backend::EmbeddingRow> rows;
  for (const int64_t row : {shape.rows - 1, int64_t{0}, shape.rows / 2}) {
    for (const int variant : {0, 1, 3, 4}) rows.push_back({&lifted.matrix, nullptr, row, variant});
  }
  std::vector<float> got(rows.size() * static_cast<size_t>(shape.cols)), want(got);
  backend_->EmbeddingRows(rows, shape.cols, got.data());
  cpu->EmbeddingRows(rows, shape.cols, want.data());
  EXPECT_TRUE(SameBits(got, want));
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaLifted, testing::ValuesIn(Shapes()),
                         [](const auto& info) { return std::string(info.param.name); });

class CudaLiftedAlone : public CudaLifted {};
INSTANTIATE_TEST_SUITE_P(Once, CudaLiftedAlone, testing::Values(Shapes()[0]));

// More products than one launch takes, at different outputs of one row.
TEST_P(CudaLiftedAlone, ManyMatricesAtOnceGiveTheBitsOfEachAlone) {
  std::deque<RandomLifted> all;
  std::vector<std::vector<float>> got;
  std::vector<Backend::LiftedProduct> products;
  for (const int64_t rows : {100, 17, 48, 16, 33, 70}) {
    all.emplace_back(rows, 160, std::vector<RandomLifted::StageSpec>{{2, 1, 6, 0}, {1, 1, 7, 1}},
                     RotationSpec{true, 4}, 3);
    all.back().AddVariant({rows, rows}, 1);
    all.back().AddVariant({rows, 16}, 0);
    got.emplace_back(static_cast<size_t>(3 * rows), -7.0f);
  }
  for (size_t i = 0; i < all.size(); ++i) {
    for (size_t j = 0; j < all[i].matrix.stages.size(); ++j)  // codes of one site
      all[i].matrix.stages[j].code = all[0].matrix.stages[j].code;
    products.push_back({&all[i].matrix, got[i].data()});
  }
  const std::vector<float> x = RandomFloats(3 * 160, 6);
  const std::vector<uint8_t> variants = {0, 1, 0};
  auto u = backend_->MakeLiftedActivations();
  backend_->Lift(all[0].site, x.data(), 3, variants, *u);
  backend_->LiftedMatmuls(products, *u, variants);
  for (size_t i = 0; i < all.size(); ++i) {
    std::vector<float> alone(got[i].size());
    backend_->LiftedMatmul(all[i].matrix, *u, variants, alone.data());
    EXPECT_TRUE(SameBits(got[i], alone)) << "matrix " << i;
  }
}

TEST_P(CudaLiftedAlone, NotANumberStaysInItsRow) {
  RandomLifted lifted(20, 64, {{2, 1, 6, 0}}, {true, 4}, 3);
  lifted.AddVariant({20}, 0);
  std::vector<float> x = RandomFloats(3 * 64, 2);
  x[70] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> y = Multiply(*backend_, lifted, x, {0, 0, 0});
  for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(std::isnan(y[i]), i / 20 == 1) << i;
}

// Nobody reads stage 1 beyond row 16, so those planes may be absent altogether.
TEST_P(CudaLiftedAlone, UnreadPlanesAreNotTouched) {
  RandomLifted lifted(64, 64, {{2, 0, 6, 0}, {2, 0, 6, 0}}, {}, 3);
  lifted.AddVariant({64, 16}, 0);
  lifted.AddVariant({64, 0}, 0);
  const std::vector<float> x = RandomFloats(2 * 64, 2);
  const std::vector<float> want = Multiply(*backend_, lifted, x, {0, 1});
  // Keep the first row tile only: anything behind it is out of bounds for the sanitizer.
  const std::vector<RandomLifted::PlaneLine> first(lifted.planes[1].begin(),
                                                   lifted.planes[1].begin() + 4);
  lifted.matrix.stages[1].planes = reinterpret_cast<const std::byte*>(first.data());
  EXPECT_TRUE(SameBits(Multiply(*backend_, lifted, x, {0, 1}), want));
}

// A prompt's rows, and a rotation whose rows do not fit into shared memory.
TEST_P(CudaLiftedAlone, LongRowsWithManyBlocksMatchTheCpu) {
  RandomLifted lifted(33, 134 * 64, {{2, 1, 8, 0, true}}, {true, 9}, 3);  // 67 x 128: odd part 67
  lifted.AddVariant({33}, 0);
  const std::vector<float> x = RandomFloats(2 * 134 * 64, 2);
  EXPECT_TRUE(SameBits(Multiply(*backend_, lifted, x, {0, 0}), OnCpu(lifted, x, {0, 0})));
}

}  // namespace
}  // namespace lift
