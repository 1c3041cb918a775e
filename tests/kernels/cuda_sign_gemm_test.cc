// The sign product on a GPU against a plain sum. Without a usable GPU there is nothing to run it
// on.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/base/float16.h"
#include "kernels/cuda/sign_gemm.h"

namespace lift::cuda {
namespace {

template <typename T>
class OnDevice {
 public:
  explicit OnDevice(const std::vector<T>& values) {
    EXPECT_EQ(cudaMalloc(&data_, values.size() * sizeof(T)), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(data_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice),
              cudaSuccess);
  }
  ~OnDevice() { cudaFree(data_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  T* get() const { return static_cast<T*>(data_); }

 private:
  void* data_ = nullptr;
};

struct Case {
  int64_t rows, blocks;
  int tokens, stored, derived;
};

class SignGemmOnGpu : public ::testing::TestWithParam<Case> {};

TEST_P(SignGemmOnGpu, EqualsThePlainSum) {
  if (const auto device = DescribeDevice(); !device.ok()) GTEST_SKIP() << device.status().message();
  const Case c = GetParam();
  const int streams = c.stored + c.derived;
  const int64_t tiles = (c.rows + 15) / 16, columns = c.blocks * 32;
  std::mt19937 random(11);
  std::vector<uint8_t> planes(static_cast<size_t>(tiles * c.blocks * c.stored * 64));
  for (auto& b : planes) b = static_cast<uint8_t>(random());
  std::vector<int8_t> u(static_cast<size_t>(c.tokens * c.blocks * streams * 32));
  for (auto& x : u) x = static_cast<int8_t>(random() % 255 - 127);
  std::vector<float> scale;
  std::vector<int32_t> sum;
  std::vector<int64_t> rows_read;
  for (int t = 0; t < c.tokens; ++t) {
    scale.push_back(0.01f * static_cast<float>(t + 1));
    int32_t total = 0;
    for (int64_t k = 0; k < c.blocks * streams * 32; ++k)
      total += u[static_cast<size_t>(t * c.blocks * streams * 32 + k)];
    sum.push_back(total);
    rows_read.push_back(t % 3 == 1 ? std::min<int64_t>(16, c.rows) : c.rows);
  }
  std::vector<uint16_t> row_scale;
  for (int64_t r = 0; r < c.rows; ++r)
    row_scale.push_back(FloatToHalf(0.5f + 0.01f * static_cast<float>(r % 50)));
  const uint32_t masks[2][4] = {{0x2B, 0x12, 0x05, 0x80}, {0x41, 0x00, 0x22, 0x01}};
  const OnDevice planes_d(planes);
  const OnDevice u_d(u);
  const OnDevice scale_d(scale);
  const OnDevice sum_d(sum);
  const OnDevice read_d(rows_read);
  const OnDevice row_scale_d(row_scale);
  const OnDevice y_d(std::vector<float>(static_cast<size_t>(c.tokens * c.rows), NAN));
  SignGemm gemm{c.rows, c.blocks, c.tokens, row_scale_d.get(), y_d.get(), 1, {}};
  gemm.stage[0] = {planes_d.get(), u_d.get(), scale_d.get(), sum_d.get(), read_d.get(),
                   0.75f,          c.stored,  c.derived,     {}};
  for (int k = 0; k < c.derived; ++k) {
    for (int r = 0; r < c.stored; ++r) gemm.stage[0].masks[k][r] = masks[k][r];
  }
  ASSERT_TRUE(LaunchSignGemm(gemm, nullptr).ok());
  std::vector<float> y(static_cast<size_t>(c.tokens * c.rows));
  ASSERT_EQ(cudaMemcpy(y.data(), y_d.get(), y.size() * sizeof(float), cudaMemcpyDeviceToHost),
            cudaSuccess);
  const auto stored_bit = [&](int64_t row, int r, int64_t column) {
    column = (column + columns) % columns;
    const size_t tile = static_cast<size_t>((row / 16 * c.blocks + column / 32) * c.stored + r);
    return planes[tile * 64 + static_cast<size_t>(row % 16 * 4 + column % 32 / 8)] >> (column % 8) &
           1;
  };
  for (int t = 0; t < c.tokens; ++t) {
    for (int64_t row = 0; row < c.rows; ++row) {
      int64_t total = 0;
      for (int64_t column = 0; column < columns; ++column) {
        for (int s = 0; s < streams; ++s) {
          int bit = 0;
          if (s < c.stored) {
            bit = stored_bit(row, s, column);
          } else {
            for (int r = 0; r < c.stored; ++r) {
              for (int back = 0; back < 8; ++back) {
                if (masks[s - c.stored][r] >> back & 1) bit ^= stored_bit(row, r, column - back);
              }
            }
          }
          const int64_t block = column / 32, in = column % 32;
          const int8_t value = u[static_cast<size_t>(((t * c.blocks + block) * streams + s) * 32 +
                                                     4 * (in % 8) + in / 8)];
          total += bit ? value : -value;
        }
      }
      const bool reads = row < rows_read[static_cast<size_t>(t)];
      const float want =
          reads ? HalfToFloat(row_scale[static_cast<size_t>(row)]) *
                      (0.75f * scale[static_cast<size_t>(t)] * static_cast<float>(total))
                : 0.0f;
      const float got = y[static_cast<size_t>(t * c.rows + row)];
      ASSERT_FALSE(!(std::fabs(got - want) <= 1e-5f * std::fabs(want) + 1e-6f))
          << "token " << t << " row " << row << ": " << got << " vs " << want;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, SignGemmOnGpu,
                         ::testing::Values(Case{16, 4, 1, 2, 0}, Case{111, 18, 3, 2, 1},
                                           Case{576, 48, 8, 1, 1}, Case{33, 5, 5, 3, 1},
                                           Case{64, 3, 2, 4, 2}, Case{989, 31, 7, 2, 2}));

}  // namespace
}  // namespace lift::cuda
