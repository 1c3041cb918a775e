#include "kernels/format/rotation.h"

#include <gtest/gtest.h>

#include <cstring>

#include "kernels/reference/reference.h"
#include "tests/kernels/random_lifted.h"

namespace lift {
namespace {

class RotationTest : public testing::TestWithParam<int64_t> {};

TEST_P(RotationTest, IsTheDefinedMatrixAndItsTransposeUndoesIt) {
  const int64_t n = GetParam();
  const RotationSpec spec{true, 12345};
  const Rotation rotation(spec, n);
  EXPECT_EQ(rotation.power() * rotation.odd(), n);
  const std::vector<float> original = RandomFloats(n, 8);
  std::vector<float> x = original, scratch(static_cast<size_t>(n));
  const std::vector<double> matrix = reference::RotationMatrix(spec, n);
  reference::Expected want, back;
  double size = 0;
  for (const float value : original) size += static_cast<double>(value) * value;
  const double tolerance = 2e-6 * std::sqrt(size) * (1 + std::log2(static_cast<double>(n)));
  for (int64_t i = 0; i < n; ++i) {
    double sum = 0;
    for (int64_t c = 0; c < n; ++c) {
      sum += matrix[static_cast<size_t>(i * n + c)] * original[static_cast<size_t>(c)];
    }
    want.values.push_back(sum);
    want.tolerance.push_back(tolerance);
    back.values.push_back(original[static_cast<size_t>(i)]);
    back.tolerance.push_back(2 * tolerance);
  }
  rotation.Apply(x.data(), scratch.data());
  EXPECT_EQ(reference::Mismatch(x, want), "");
  rotation.ApplyTranspose(x.data(), scratch.data());
  EXPECT_EQ(reference::Mismatch(x, back), "");
}

INSTANTIATE_TEST_SUITE_P(Dimensions, RotationTest,
                         testing::Values(1, 2, 8, 15, 33, 72, 111, 512, 576, 989, 1536));

TEST(RotationTables, DisabledIsTheIdentity) {
  const Rotation rotation({false, 1}, 24);
  std::vector<float> x = RandomFloats(24, 8), scratch(24);
  const std::vector<float> before = x;
  rotation.Apply(x.data(), scratch.data());
  rotation.ApplyTranspose(x.data(), scratch.data());
  EXPECT_EQ(x, before);
}

TEST(RotationTables, SeedsDiffer) {
  EXPECT_NE(Rotation({true, 1}, 64).signs(), Rotation({true, 2}, 64).signs());
  EXPECT_EQ(Rotation({true, 1}, 64).signs(), Rotation({true, 1}, 64).signs());
}

}  // namespace
}  // namespace lift
