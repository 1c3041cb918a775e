#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kernels/reference/reference.h"
#include "tests/kernels/kernel_tables.h"
#include "tests/kernels/random_lifted.h"

namespace lift {
namespace {

using reference::Mismatch;

class DenseKernels : public testing::TestWithParam<const cpu::Kernels*> {
 protected:
  ThreadPool pool_{2};
  std::unique_ptr<Backend> backend_ = cpu::MakeCpuBackendOn(pool_, *GetParam());
};

TEST_P(DenseKernels, RmsNormMatchesOracle) {
  for (const int64_t dim : {1, 15, 17, 111, 576, 989}) {
    std::vector<float> x = RandomFloats(3 * dim, 1, 3.0f);
    const std::vector<float> gain = RandomFloats(dim, 2);
    const auto want = reference::RmsNorm(x, gain, 1e-5, 3);
    backend_->RmsNorm(x.data(), gain.data(), 1e-5f, 3, dim, x.data());  // in place
    EXPECT_EQ(Mismatch(x, want), "") << dim;
  }
}

TEST_P(DenseKernels, LayerNormMatchesOracle) {
  for (const int64_t dim : {1, 15, 17, 111, 576, 989}) {
    std::vector<float> x = RandomFloats(3 * dim, 6, 3.0f);
    for (float& v : x) v += 2.0f;  // a mean to take away
    const std::vector<float> gain = RandomFloats(dim, 7), bias = RandomFloats(dim, 8);
    const auto want = reference::LayerNorm(x, gain, bias, 1e-5, 3);
    backend_->LayerNorm(x.data(), gain.data(), bias.data(), 1e-5f, 3, dim, x.data());
    EXPECT_EQ(Mismatch(x, want), "") << dim;
  }
}

TEST_P(DenseKernels, GeluMatchesOracleAndIsTheSameBitsEverywhere) {
  ThreadPool one(1);
  const auto portable = cpu::MakeCpuBackendOn(one, cpu::PortableKernels());
  for (const bool tanh_form : {false, true}) {
    std::vector<float> x = RandomFloats(989, 9, 6.0f);
    x[0] = 0.0f, x[1] = -200.0f, x[2] = 200.0f, x[3] = -13.0f;
    std::vector<float> other = x;
    const auto want = reference::Gelu(x, tanh_form);
    backend_->Gelu(x.data(), 989, tanh_form);
    portable->Gelu(other.data(), 989, tanh_form);
    EXPECT_EQ(Mismatch(x, want), "") << tanh_form;
    EXPECT_EQ(x, other) << tanh_form;
  }
}

TEST_P(DenseKernels, RowsAreGatheredAndAddedBack) {
  const std::vector<float> x = {1, 2, 3, 4, 5, 6};
  const std::vector<int32_t> rows = {0, 2};
  const std::vector<float> weights = {0.5f, 2.0f};
  std::vector<float> some(4), sum = {10, 10, 20, 20, 30, 30};
  backend_->GatherRows(x.data(), rows, 2, some.data());
  EXPECT_EQ(some, (std::vector<float>{1, 2, 5, 6}));
  backend_->AddWeightedRows(sum.data(), rows, weights, some.data(), 2);
  EXPECT_EQ(sum, (std::vector<float>{10.5f, 11, 20, 20, 40, 42}));
}

TEST_P(DenseKernels, MultiplyIsElementwise) {
  std::vector<float> x = RandomFloats(989, 1), y = RandomFloats(989, 2), want = x;
  for (size_t i = 0; i < want.size(); ++i) want[i] *= y[i];
  backend_->Multiply(x.data(), y.data(), 989);
  EXPECT_EQ(x, want);
}

TEST_P(DenseKernels, SwiGluMatchesOracle) {
  std::vector<float> gate = RandomFloats(989, 3, 8.0f);
  gate[0] = 0.0f;
  gate[1] = -200.0f;
  gate[2] = 200.0f;
  gate[3] = -87.0f;
  const std::vector<float> up = RandomFloats(989, 4);
  const auto want = reference::SwiGlu(gate, up);
  backend_->SwiGlu(gate.data(), up.data(), 989, gate.data());
  EXPECT_EQ(Mismatch(gate, want), "");
}

TEST_P(DenseKernels, RopeMatchesOracle) {
  for (const bool interleaved : {false, true}) {
    for (const int64_t rotary : {8, 24}) {
      std::vector<float> x = RandomFloats(3 * 2 * 24, 5), cos_sin;
      for (int64_t t = 0; t < 3; ++t) {
        for (int i = 0; i < rotary / 2; ++i) cos_sin.push_back(std::cos(0.3f * t * (i + 1)));
        for (int i = 0; i < rotary / 2; ++i) cos_sin.push_back(std::sin(0.3f * t * (i + 1)));
      }
      const auto want = reference::Rope(x, 3, 2, 24, rotary, cos_sin, interleaved);
      backend_->Rope(x.data(), 3, 2, 24, rotary, cos_sin.data(), interleaved);
      EXPECT_EQ(Mismatch(x, want), "") << interleaved << rotary;
    }
  }
}

TEST_P(DenseKernels, AddAndBias) {
  std::vector<float> x = {1, 2, 3, 4, 5, 6};
  const std::vector<float> y = {10, 20, 30};
  backend_->AddBias(x.data(), y.data(), 2, 3);
  EXPECT_EQ(x, (std::vector<float>{11, 22, 33, 14, 25, 36}));
  backend_->Add(x.data(), y.data(), 3);
  EXPECT_EQ(x, (std::vector<float>{21, 42, 63, 14, 25, 36}));
}

struct Weights {
  DenseMatrixView view;
  std::vector<std::byte> bytes;
  std::vector<float> decoded;
};

Weights MakeWeights(DType type, int64_t rows, int64_t cols) {
  Weights w;
  w.decoded = RandomFloats(rows * cols, 21);
  w.bytes.resize(RowBytes(type, cols) * static_cast<size_t>(rows));
  for (size_t i = 0; i < w.decoded.size(); ++i) {
    const uint16_t half = FloatToHalf(w.decoded[i]), brain = FloatToBFloat16(w.decoded[i]);
    if (type == DType::kF32) std::memcpy(&w.bytes[4 * i], &w.decoded[i], 4);
    if (type == DType::kF16) std::memcpy(&w.bytes[2 * i], &half, 2);
    if (type == DType::kBF16) std::memcpy(&w.bytes[2 * i], &brain, 2);
  }
  if (type == DType::kQ8_0) {
    for (size_t i = 0; i < w.bytes.size(); ++i) {
      w.bytes[i] = i % 34 == 0   ? std::byte{0x12}
                   : i % 34 == 1 ? std::byte{0x24}
                                 : static_cast<std::byte>(i * 37);
    }
  }
  Dequantize(type, w.bytes.data(), w.decoded);
  w.view = {type, rows, cols, w.bytes.data()};
  return w;
}

TEST_P(DenseKernels, MatmulMatchesOracleAndIsEqualToTheBitEverywhere) {
  const struct {
    DType type;
    int64_t rows, cols, tokens;
  } cases[] = {{DType::kF32, 1, 33, 1},     {DType::kF32, 15, 72, 5},   {DType::kF16, 17, 111, 6},
               {DType::kBF16, 111, 576, 7}, {DType::kF32, 989, 33, 13}, {DType::kQ8_0, 63, 1536, 3},
               {DType::kF32, 64, 300, 110}, {DType::kF32, 129, 257, 2}};
  ThreadPool four(4);
  const auto portable = cpu::MakeCpuBackendOn(four, cpu::PortableKernels());
  for (const auto& c : cases) {
    const Weights w = MakeWeights(c.type, c.rows, c.cols);
    const std::vector<float> x = RandomFloats(c.tokens * c.cols, 22);
    std::vector<float> y(static_cast<size_t>(c.tokens * c.rows)), other(y);
    backend_->DenseMatmul(w.view, x.data(), c.tokens, y.data());
    EXPECT_EQ(Mismatch(y, reference::DenseMatmul(w.decoded, c.rows, c.cols, x, c.tokens)), "");
    portable->DenseMatmul(w.view, x.data(), c.tokens, other.data());
    EXPECT_EQ(std::memcmp(y.data(), other.data(), 4 * y.size()), 0) << c.rows << "x" << c.cols;
    std::vector<float> alone(static_cast<size_t>(c.rows));
    backend_->DenseMatmul(w.view, x.data() + (c.tokens - 1) * c.cols, 1, alone.data());
    EXPECT_EQ(std::memcmp(alone.data(), y.data() + (c.tokens - 1) * c.rows, 4 * alone.size()), 0);
  }
}

TEST_P(DenseKernels, MatmulIsOneChainOfFusedMultiplyAdds) {
  const Weights w = MakeWeights(DType::kF32, 20, 300);
  const std::vector<float> x = RandomFloats(300, 23);
  std::vector<float> y(20);
  backend_->DenseMatmul(w.view, x.data(), 1, y.data());
  for (size_t r = 0; r < 20; ++r) {
    float chain = 0;
    for (size_t c = 0; c < 300; ++c) chain = std::fma(w.decoded[r * 300 + c], x[c], chain);
    EXPECT_EQ(y[r], chain);
  }
}

TEST_P(DenseKernels, RowIsDecoded) {
  const Weights w = MakeWeights(DType::kQ8_0, 3, 64);
  std::vector<float> out(64);
  backend_->DenseRow(w.view, 2, out.data());
  EXPECT_EQ(out, std::vector<float>(w.decoded.begin() + 128, w.decoded.end()));
}

INSTANTIATE_TEST_SUITE_P(Tables, DenseKernels, testing::ValuesIn(AllTables()),
                         [](const auto& info) { return TableName(info.param); });

TEST(Comparator, FailsOnEveryKindOfWrong) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> exact = {1.0f, 2.0f};
  const reference::Expected want{{1.0, 2.0}, {0.1, 0.1}};
  EXPECT_EQ(Mismatch(exact, want), "");
  EXPECT_EQ(Mismatch(std::vector<float>{1.05f, 1.95f}, want), "");
  EXPECT_NE(Mismatch(std::vector<float>{1.0f, 2.2f}, want), "");
  EXPECT_NE(Mismatch(std::vector<float>{1.0f, -2.0f}, want), "");
  EXPECT_NE(Mismatch(std::vector<float>{nan, 2.0f}, want), "");
  EXPECT_NE(Mismatch(std::vector<float>{1.0f}, want), "");
  EXPECT_NE(Mismatch(exact, {{nan, 2.0}, {0.1, 0.1}}), "");
  EXPECT_NE(Mismatch(exact, {{1.0, 2.0}, {nan, 0.1}}), "");
}

TEST(CpuIsaChoice, BestIsSupportedAndNamed) {
  EXPECT_TRUE(CpuIsaSupported(BestCpuIsa()));
  EXPECT_TRUE(CpuIsaSupported(CpuIsa::kPortable));
  EXPECT_NE(CpuIsaName(BestCpuIsa()), "unknown");
  ThreadPool pool(1);
  EXPECT_NE(MakeCpuBackend(pool)->description(), "");
}

TEST(CpuBuffers, AreZeroedAndAligned) {
  ThreadPool pool(1);
  const auto backend = MakeCpuBackend(pool);
  auto buffer = backend->Allocate(100000, MemoryKind::kState);
  ASSERT_TRUE(buffer.ok());
  EXPECT_EQ((*buffer)->size(), 100000u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>((*buffer)->data()) % 64, 0u);
  EXPECT_EQ((*buffer)->as<char>()[99999], 0);
  EXPECT_TRUE(backend->Allocate(0, MemoryKind::kState).ok());
  EXPECT_EQ(backend->Allocate(size_t{1} << 60, MemoryKind::kState).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(backend->Allocate(SIZE_MAX, MemoryKind::kState).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace lift
