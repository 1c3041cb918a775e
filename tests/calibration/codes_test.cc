#include "calibration/codes.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "calibration/encoder.h"

namespace lift {
namespace {

TEST(Codes, UnknownNameListsWhatExists) {
  const auto code = FindCode("5+9p");
  ASSERT_FALSE(code.ok());
  EXPECT_EQ(code.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(std::string(code.status().message()).find("2+1p"), std::string::npos);
}

TEST(Codes, DefaultsHaveTheStoredBitsAskedFor) {
  for (int bits = 1; bits <= 4; ++bits) EXPECT_EQ(DefaultCode(bits).stored, bits);
}

// The definition in lifted_file.h, written a second time over +1/-1 signs.
float Definition(const LiftCode& code, const std::vector<uint8_t>& bits, int64_t t) {
  const int64_t n = static_cast<int64_t>(bits.size());
  const auto stored = [&](int64_t column, int r) {
    return bits[static_cast<size_t>(((column % n) + n) % n)] >> r & 1;
  };
  double sum = 0;
  for (int m = 0; m < code.steps; ++m) {
    for (int r = 0; r < code.streams(); ++r) {
      int sign = 0;
      if (r < code.stored) {
        sign = stored(t - m, r);
      } else {
        for (int s = 0; s < 8; ++s) {
          for (int q = 0; q < code.stored; ++q) {
            if (code.masks[static_cast<size_t>(r - code.stored)] >> (s * code.streams() + q) & 1)
              sign ^= stored(t - m - s, q);
          }
        }
      }
      sum += (sign ? 1.0 : -1.0) * code.taps[static_cast<size_t>(m * code.streams() + r)];
    }
  }
  return static_cast<float>(sum);
}

TEST(Codes, ReconstructionFollowsTheDefinitionOnCircularRows) {
  std::mt19937 random(3);
  ThreadPool pool(2);
  for (const std::string& name : CodeNames()) {
    const LiftCode code = *FindCode(name);
    for (int64_t n : {32, 96, 160}) {
      std::vector<uint8_t> bits(static_cast<size_t>(n));
      for (auto& b : bits) b = static_cast<uint8_t>(random() & ((1u << code.stored) - 1));
      std::vector<float> slow(bits.size()), fast(bits.size());
      ReconstructRow(code, bits.data(), n, slow.data());
      ReconstructRows(code, 1.5f, bits.data(), 1, n, pool, fast.data());
      for (int64_t t = 0; t < n; ++t) {
        EXPECT_NEAR(slow[static_cast<size_t>(t)], Definition(code, bits, t), 1e-5)
            << name << " column " << t;
        EXPECT_NEAR(fast[static_cast<size_t>(t)], 1.5f * slow[static_cast<size_t>(t)], 1e-5)
            << name << " column " << t;
      }
    }
  }
}

}  // namespace
}  // namespace lift
