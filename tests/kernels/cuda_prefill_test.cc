// Rows of prompts (kPrefillRow) on the CUDA backend: decoded weights, multiplied as fp16.
#include <gtest/gtest.h>

#if defined(LIFT_CUDA_EMULATED)
#include <cuda_runtime.h>
#endif

#include <deque>

#include "kernels/cuda/prefill_limits.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/cuda_device.h"
#include "tests/kernels/kernel_tables.h"
#include "tests/kernels/lifted_case.h"

namespace lift {
namespace {

// Of a row's length in the rotated basis, element by element: five standard deviations of roundings
// to fp16, and of those to two fp16 numbers with the rounding of float sums.
constexpr double kSingle = 1.5e-3, kSplit = 1e-5;

std::vector<uint8_t> AllPrompts(int64_t tokens, int variant) {
  return std::vector<uint8_t>(static_cast<size_t>(tokens),
                              static_cast<uint8_t>(variant | kPrefillRow));
}

// The product of exact weights and activations; a row's tolerance is `relative` times the length of
// its terms.
reference::Expected Exact(const RandomLifted& lifted, const std::vector<float>& x, int variant,
                          double relative) {
  const LiftedMatrix& w = lifted.matrix;
  const int64_t cols = w.cols, tokens = static_cast<int64_t>(x.size()) / cols;
  const std::vector<double> rotation = reference::RotationMatrix(lifted.rotation_spec, cols);
  std::vector<double> rotated(x.size());
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < cols; ++i) {
      for (int64_t c = 0; c < cols; ++c) {
        rotated[static_cast<size_t>(t * cols + i)] +=
            rotation[static_cast<size_t>(i * cols + c)] *
            static_cast<double>(x[static_cast<size_t>(t * cols + c)]);
      }
    }
  }
  reference::Expected out;
  out.values.resize(static_cast<size_t>(tokens * w.rows));
  out.tolerance.resize(out.values.size());
  for (int64_t row = 0; row < w.rows; ++row) {
    const std::vector<double> v = reference::RotatedRow(w, row, variant);
    for (int64_t t = 0; t < tokens; ++t) {
      double sum = 0, squares = 0;
      for (size_t i = 0; i < v.size(); ++i) {
        const double term = v[i] * rotated[static_cast<size_t>(t * cols) + i];
        sum += term;
        squares += term * term;
      }
      out.values[static_cast<size_t>(t * w.rows + row)] = sum;
      out.tolerance[static_cast<size_t>(t * w.rows + row)] = relative * std::sqrt(squares) + 1e-30;
    }
  }
  return out;
}

class CudaPrefill : public testing::TestWithParam<Shape> {
 protected:
  void SetUp() override { LIFT_SKIP_WITHOUT_CUDA(backend_); }
  void TearDown() override { cuda::SetPromptStripBytes(strip_bytes_); }
  std::unique_ptr<Backend> backend_;
  const size_t strip_bytes_ = cuda::PromptStripBytes();
};

TEST_P(CudaPrefill, MatmulMatchesOracle) {
  const Shape& shape = GetParam();
  const RandomLifted lifted = MakeLifted(shape, 21);
  const std::vector<float> x = RandomFloats(shape.tokens * shape.cols, 5);
  for (const int variant : {0, 2, 3, 4}) {
    const std::vector<uint8_t> variants = AllPrompts(shape.tokens, variant);
    EXPECT_EQ(reference::Mismatch(Multiply(*backend_, lifted, x, variants),
                                  Exact(lifted, x, variant, kSingle)),
              "")
        << "variant " << variant;
  }
}

// Answers' rows have the CPU's bits, and prompts' rows those that they have alone, in every order
// of threads.
TEST_P(CudaPrefill, RowsDoNotDependOnTheirBatch) {
  const Shape& shape = GetParam();
  const RandomLifted lifted = MakeLifted(shape, 22);
  const std::vector<float> x = RandomFloats(shape.tokens * shape.cols, 6);
  std::vector<uint8_t> variants = MixedVariants(shape.tokens), plain = variants;
  for (size_t t = 0; t < variants.size(); t += 2) variants[t] |= kPrefillRow;
  ThreadPool pool(1);
  const std::vector<float> cpu =
      Multiply(*cpu::MakeCpuBackendOn(pool, cpu::PortableKernels()), lifted, x, plain);
  const auto rows = static_cast<size_t>(shape.rows);
  std::vector<float> first;
  InEveryOrder([&] {
    const std::vector<float> y = Multiply(*backend_, lifted, x, variants);
    if (first.empty()) first = y;
    EXPECT_TRUE(SameBits(y, first));
  });
  for (size_t t = 0; t < variants.size(); ++t) {
    const auto row = std::span<const float>(first).subspan(t * rows, rows);
    if (variants[t] < kPrefillRow) {
      EXPECT_TRUE(SameBits(row, std::span(cpu).subspan(t * rows, rows))) << "token " << t;
      continue;
    }
    const auto begin = x.begin() + static_cast<std::ptrdiff_t>(t) * shape.cols;
    const std::vector<float> one(begin, begin + shape.cols);
    EXPECT_TRUE(SameBits(row, Multiply(*backend_, lifted, one, {variants[t]}))) << "token " << t;
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaPrefill, testing::ValuesIn(Shapes()),
                         [](const auto& info) { return std::string(info.param.name); });

class CudaPrefillAlone : public CudaPrefill {};
INSTANTIATE_TEST_SUITE_P(Once, CudaPrefillAlone, testing::Values(Shapes()[0]));

// Nine stored bits and wide activations.
TEST_P(CudaPrefillAlone, FineVariantsAreMultipliedInTwoHalves) {
  for (const int64_t cols : {72, 1184}) {
    RandomLifted lifted(70, cols, {{3, 1, 8, 0}, {3, 1, 8, 0}, {3, 0, 13, 1}}, {true, 7}, 9);
    lifted.AddVariant({70, 70, 70}, 2);
    lifted.AddVariant({70, 70, 70}, 0);
    lifted.AddVariant({70, 40, 16}, 2);
    for (const float size : {1e-12f, 1.0f, 3e8f}) {
      std::vector<float> x = RandomFloats(5 * cols, 2, size);
      for (int64_t c = 0; c < cols; ++c) x[static_cast<size_t>(c)] *= c == 3 ? 100.0f : 1e-3f;
      for (const int variant : {0, 1, 2}) {
        EXPECT_EQ(reference::Mismatch(Multiply(*backend_, lifted, x, AllPrompts(5, variant)),
                                      Exact(lifted, x, variant, variant == 1 ? kSingle : kSplit)),
                  "")
            << "variant " << variant << ", " << cols << " columns of size " << size;
      }
    }
  }
}

// More rows than one product takes, and strips shorter than the matrix: the bits of few and of one.
TEST_P(CudaPrefillAlone, ManyRowsInStripsGiveTheBitsOfFew) {
  RandomLifted lifted(90, 96, {{2, 1, 9, 0}, {1, 1, 14, 1}, {3, 0, 8, 2}, {3, 0, 8, 2}}, {true, 4},
                      3);
  lifted.AddVariant({90, 90, 0, 0}, 0);
  lifted.AddVariant({90, 90, 90, 90}, 4);
  constexpr int64_t kRows = 2 * cuda::kPromptColumns + 100;
  const std::vector<float> x = RandomFloats(kRows * 96, 2);
  std::vector<uint8_t> variants(kRows);
  for (size_t t = 0; t < variants.size(); ++t) variants[t] = kPrefillRow | (t % 5 == 0 ? 1 : 0);
  const std::vector<float> y = Multiply(*backend_, lifted, x, variants);
  for (const size_t rows : {16, 32, 48}) {
    cuda::SetPromptStripBytes(rows * 96 * 2);
    EXPECT_TRUE(SameBits(Multiply(*backend_, lifted, x, variants), y)) << rows << " rows";
  }
  for (size_t t = 0; t < variants.size(); t += 50) {
    const auto at = static_cast<std::ptrdiff_t>(t);
    const size_t count = std::min<size_t>(50, variants.size() - t);
    const auto end = at + static_cast<std::ptrdiff_t>(count);
    const std::vector<float> some(x.begin() + 96 * at, x.begin() + 96 * end);
    const std::vector<uint8_t> theirs(variants.begin() + at, variants.begin() + end);
    EXPECT_TRUE(SameBits(Multiply(*backend_, lifted, some, theirs),
                         std::span(y).subspan(90 * t, 90 * count)))
        << t;
  }
}

// More products than one launch of the sign product takes, side by side in rows of one output,
// which is a buffer or the host's.
TEST_P(CudaPrefillAlone, ManyMatricesInRowsOfOneOutput) {
  constexpr int64_t kTokens = 7, kPitch = 300;
  std::deque<RandomLifted> all;
  for (const int64_t rows : {100, 17, 48, 16, 33, 70}) {
    all.emplace_back(rows, 160, std::vector<RandomLifted::StageSpec>{{2, 1, 6, 0}, {1, 1, 7, 1}},
                     RotationSpec{true, 4}, 3);
    all.back().AddVariant({rows, rows}, 1);
    all.back().AddVariant({rows, 16}, 0);
    all.back().matrix.pitch = kPitch;
    for (size_t j = 0; j < 2; ++j)  // codes of one site
      all.back().matrix.stages[j].code = all[0].matrix.stages[j].code;
  }
  const std::vector<float> x = RandomFloats(kTokens * 160, 6);
  const uint8_t prompt = kPrefillRow;
  const std::vector<uint8_t> mixes[] = {
      {prompt, 1, 0, prompt, prompt, 1, prompt}, AllPrompts(kTokens, 1), {0, 1, 0, 1, 1, 1, 0}};
  for (const auto& variants : mixes) {
    auto u = backend_->MakeLiftedActivations();
    backend_->Lift(all[0].site, x.data(), kTokens, variants, *u);
    std::vector<float> got(static_cast<size_t>(kTokens * kPitch), -7.0f), from_buffer(got);
    auto buffer = backend_->Allocate(got.size() * sizeof(float), MemoryKind::kWorkspace);
    ASSERT_TRUE(buffer.ok());
    backend_->Upload(got.data(), got.size() * sizeof(float), (*buffer)->data());
    std::vector<Backend::LiftedProduct> products, in_buffer;
    int64_t at = 0;
    for (const RandomLifted& lifted : all) {
      products.push_back({&lifted.matrix, got.data() + at});
      in_buffer.push_back({&lifted.matrix, (*buffer)->as<float>() + at});
      at += lifted.matrix.rows;
    }
    backend_->LiftedMatmuls(products, *u, variants);
    backend_->LiftedMatmuls(in_buffer, *u, variants);
    backend_->Download((*buffer)->data(), got.size() * sizeof(float), from_buffer.data());
    EXPECT_TRUE(SameBits(got, from_buffer));
    at = 0;
    for (const RandomLifted& lifted : all) {
      LiftedMatrix alone = lifted.matrix;
      alone.pitch = 0;
      std::vector<float> y(static_cast<size_t>(kTokens * alone.rows));
      backend_->LiftedMatmul(alone, *u, variants, y.data());
      for (int64_t t = 0; t < kTokens; ++t) {
        EXPECT_TRUE(SameBits(std::span(got).subspan(static_cast<size_t>(t * kPitch + at),
                                                    static_cast<size_t>(alone.rows)),
                             std::span(y).subspan(static_cast<size_t>(t * alone.rows),
                                                  static_cast<size_t>(alone.rows))))
            << "token " << t << " from row " << at;
      }
      at += alone.rows;
    }
    for (int64_t t = 0; t < kTokens; ++t) {
      for (int64_t i = at; i < kPitch; ++i)
        EXPECT_EQ(got[static_cast<size_t>(t * kPitch + i)], -7.0f);
    }
  }
}

TEST_P(CudaPrefillAlone, NotANumberStaysInItsRow) {
  RandomLifted lifted(20, 64, {{2, 1, 6, 0}}, {true, 4}, 3);
  lifted.AddVariant({20}, 0);
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<float> x = RandomFloats(3 * 64, 2);
    x[70] = bad;
    const std::vector<float> y = Multiply(*backend_, lifted, x, AllPrompts(3, 0));
    for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(std::isnan(y[i]), i / 20 == 1) << i;
  }
}

TEST_P(CudaPrefillAlone, ZerosGiveZeros) {
  RandomLifted lifted(20, 64, {{2, 1, 6, 0}}, {true, 4}, 3);
  lifted.AddVariant({20}, 0);
  const std::vector<float> y =
      Multiply(*backend_, lifted, std::vector<float>(64), AllPrompts(1, 0));
  EXPECT_EQ(y, std::vector<float>(20));
}

// Nobody reads stage 1 beyond row 16, so those planes may be absent altogether.
TEST_P(CudaPrefillAlone, UnreadPlanesAreNotTouched) {
  RandomLifted lifted(64, 64, {{2, 0, 6, 0}, {2, 0, 6, 0}}, {}, 3);
  lifted.AddVariant({64, 16}, 0);
  lifted.AddVariant({64, 0}, 0);
  const std::vector<float> x = RandomFloats(2 * 64, 2);
  const std::vector<uint8_t> variants = {kPrefillRow, kPrefillRow | 1};
  const std::vector<float> want = Multiply(*backend_, lifted, x, variants);
  // Keep the first row tile only: anything behind it is out of bounds for the sanitizer.
  const std::vector<RandomLifted::PlaneLine> first(lifted.planes[1].begin(),
                                                   lifted.planes[1].begin() + 4);
  lifted.matrix.stages[1].planes = reinterpret_cast<const std::byte*>(first.data());
  EXPECT_TRUE(SameBits(Multiply(*backend_, lifted, x, variants), want));
}

// A rotation whose rows do not fit into shared memory.
TEST_P(CudaPrefillAlone, LongRowsWithManyBlocksAreRotated) {
  constexpr int64_t kCols = 67 * 1024;
  RandomLifted lifted(1, kCols, {{1, 0, 3, 0}}, {true, 9}, 3);
  lifted.AddVariant({1}, 0);
  const std::vector<float> x = RandomFloats(kCols, 2);
  ThreadPool pool(1);
  const auto cpu = cpu::MakeCpuBackendOn(pool, cpu::PortableKernels());
  std::vector<float> row(kCols);
  cpu->LiftedRow(lifted.matrix, 0, 0, row.data());
  double want = 0, squares = 0;
  for (size_t i = 0; i < row.size(); ++i) {
    const double term = static_cast<double>(row[i]) * static_cast<double>(x[i]);
    want += term;
    squares += term * term;
  }
  const std::vector<float> y = Multiply(*backend_, lifted, x, AllPrompts(1, 0));
  EXPECT_NEAR(y[0], want, kSingle * std::sqrt(squares));
}

// Eight streams of long windows: tables of fewer signs, to fit into shared memory.
TEST_P(CudaPrefillAlone, LongCodesAreDecoded) {
  RandomLifted lifted(20, 320, {{4, 4, 64, 0}, {6, 2, 40, 1}, {1, 0, 61, 2}}, {true, 4}, 3);
  lifted.AddVariant({20, 20, 20}, 0);
  const std::vector<float> x = RandomFloats(3 * 320, 2);
  EXPECT_EQ(reference::Mismatch(Multiply(*backend_, lifted, x, AllPrompts(3, 0)),
                                Exact(lifted, x, 0, kSingle)),
            "");
}

// The same step again is a graph, cuBLAS included.
TEST_P(CudaPrefillAlone, StepsThatComeAgainGiveTheSameBits) {
  RandomLifted lifted(40, 64, {{2, 1, 6, 0}}, {true, 4}, 3);
  lifted.AddVariant({40}, 0);
  const std::vector<float> x = RandomFloats(3 * 64, 2);
  const std::vector<uint8_t> variants = {0, kPrefillRow, kPrefillRow};
  auto u = backend_->MakeLiftedActivations();
  auto y = backend_->Allocate(3 * 40 * sizeof(float), MemoryKind::kWorkspace);
  ASSERT_TRUE(y.ok());
  std::vector<float> first;
#if defined(LIFT_CUDA_EMULATED)
  const uint64_t graphs = simt::GraphsLaunched();
#endif
  for (int i = 0; i < 4; ++i) {
    std::vector<float> now(3 * 40);
    backend_->Lift(lifted.site, x.data(), 3, variants, *u);
    backend_->LiftedMatmul(lifted.matrix, *u, variants, (*y)->as<float>());
    backend_->Download((*y)->data(), now.size() * sizeof(float), now.data());
    if (first.empty()) first = now;
    EXPECT_TRUE(SameBits(now, first)) << i;
  }
#if defined(LIFT_CUDA_EMULATED)
  EXPECT_GE(simt::GraphsLaunched(), graphs + 2);
#endif
}

}  // namespace
}  // namespace lift
