#include "kernels/base/dtype.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "kernels/base/float16.h"
#include "kernels/base/mapped_file.h"

namespace lift {
namespace {

constexpr DType kAll[] = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kQ4_0, DType::kQ4_1,
                          DType::kQ5_0, DType::kQ5_1, DType::kQ8_0, DType::kQ2_K, DType::kQ3_K,
                          DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};

// The value of a binary16 code from its definition, in double.
double HalfValue(uint16_t h) {
  const int exponent = (h >> 10) & 31, mantissa = h & 1023;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return (h & 0x8000) ? -magnitude : magnitude;
}

TEST(HalfTest, AllCodesWidenExactlyAndComeBack) {
  for (uint32_t code = 0; code <= 0xFFFF; ++code) {
    const uint16_t h = static_cast<uint16_t>(code);
    const float f = HalfToFloat(h);
    if ((h & 0x7FFF) > 0x7C00) {
      EXPECT_TRUE(std::isnan(f)) << code;
      EXPECT_GT(FloatToHalf(f) & 0x7FFF, 0x7C00) << code;
      continue;
    }
    if ((h & 0x7FFF) == 0x7C00) {
      EXPECT_TRUE(std::isinf(f)) << code;
    } else {
      EXPECT_EQ(static_cast<double>(f), HalfValue(h)) << code;
    }
    EXPECT_EQ(std::signbit(f), (h & 0x8000) != 0) << code;
    EXPECT_EQ(FloatToHalf(f), h) << code;
  }
}

TEST(HalfTest, RoundsToNearestEvenBetweenAllNeighbours) {
  for (uint16_t low = 0; low < 0x7BFF; ++low) {
    const uint16_t high = low + 1, even = (low & 1) ? high : low;
    const float middle =
        static_cast<float>((HalfValue(low) + HalfValue(high)) / 2);  // exact in float
    EXPECT_EQ(FloatToHalf(middle), even) << low;
    EXPECT_EQ(FloatToHalf(std::nextafter(middle, 0.0f)), low) << low;
    EXPECT_EQ(FloatToHalf(std::nextafter(middle, 1e9f)), high) << low;
    EXPECT_EQ(FloatToHalf(-middle), even | 0x8000) << low;
  }
}

TEST(HalfTest, OverflowAndUnderflow) {
  EXPECT_EQ(FloatToHalf(65519.996f), 0x7BFF);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7C00);
  EXPECT_EQ(FloatToHalf(-1e30f), 0xFC00);
  EXPECT_EQ(FloatToHalf(1e-30f), 0);
  EXPECT_EQ(FloatToHalf(-1e-45f), 0x8000);
}

TEST(BFloat16Test, AllCodesComeBackAndTiesGoToEven) {
  for (uint32_t code = 0; code <= 0xFFFF; ++code) {
    const uint16_t b = static_cast<uint16_t>(code);
    const float f = BFloat16ToFloat(b);
    if (std::isnan(f)) {
      EXPECT_TRUE(std::isnan(BFloat16ToFloat(FloatToBFloat16(f)))) << code;
    } else {
      EXPECT_EQ(FloatToBFloat16(f), b) << code;
    }
  }
  EXPECT_EQ(FloatToBFloat16(std::bit_cast<float>(0x3F808000u)), 0x3F80);
  EXPECT_EQ(FloatToBFloat16(std::bit_cast<float>(0x3F818000u)), 0x3F82);
  EXPECT_EQ(FloatToBFloat16(std::bit_cast<float>(0x3F808001u)), 0x3F81);
  EXPECT_EQ(FloatToBFloat16(std::bit_cast<float>(0x7F7FFFFFu)), 0x7F80);
}

TEST(DTypeTest, NamesAndSizes) {
  std::set<std::string> names;
  for (const DType type : kAll) {
    const absl::StatusOr<DType> back = DTypeFromName(DTypeName(type));
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(*back, type);
    names.insert(std::string(DTypeName(type)));
    EXPECT_EQ(RowBytes(type, 3 * BlockElements(type)), 3 * BlockBytes(type));
    EXPECT_EQ(RowBytes(type, 0), 0u);
  }
  EXPECT_EQ(names.size(), std::size(kAll));
  EXPECT_EQ(RowBytes(DType::kQ4_K, 512), 288u);
  const absl::Status unknown = DTypeFromName("IQ4_XS").status();
  EXPECT_EQ(unknown.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(unknown.message()).find("IQ4_XS"), std::string::npos);
}

TEST(DTypeDeathTest, RowsAreWholeBlocks) {
  EXPECT_DEATH(RowBytes(DType::kQ8_0, 33), "CHECK failed");
}

// Equal to the bit to the gguf package (tests/golden/make_dequantize.py), from an unaligned address
// too.
TEST(DequantizeTest, EqualsTheGgufPackageBitForBit) {
  const auto file = MappedFile::Open(LIFT_TEST_DATA "/dequantize.bin");
  ASSERT_TRUE(file.ok()) << file.status();
  const std::byte* at = (*file)->bytes().data();
  const std::byte* const end = at + (*file)->bytes().size();
  std::set<DType> seen;
  while (at < end) {
    char name[9] = {};
    uint32_t elements = 0, bytes = 0;
    std::memcpy(name, at, 8);
    std::memcpy(&elements, at + 8, 4);
    std::memcpy(&bytes, at + 12, 4);
    at += 16;
    const DType type = DTypeFromName(name).value();
    seen.insert(type);
    ASSERT_EQ(RowBytes(type, elements), bytes) << name;
    std::vector<std::byte> shifted(bytes + 1);
    std::memcpy(shifted.data() + 1, at, bytes);
    std::vector<float> wanted(elements), got(elements), got_shifted(elements);
    std::memcpy(wanted.data(), at + bytes, elements * sizeof(float));
    Dequantize(type, at, got);
    Dequantize(type, shifted.data() + 1, got_shifted);
    for (uint32_t i = 0; i < elements; ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(wanted[i]))
          << name << " element " << i;
      ASSERT_EQ(std::bit_cast<uint32_t>(got_shifted[i]), std::bit_cast<uint32_t>(wanted[i]))
          << name << " element " << i;
    }
    at += bytes + elements * sizeof(float);
  }
  EXPECT_EQ(seen.size(), std::size(kAll));
}

TEST(DequantizeTest, EmptyIsNothing) { Dequantize(DType::kQ6_K, nullptr, {}); }

}  // namespace
}  // namespace lift
