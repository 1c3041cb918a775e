#include <gtest/gtest.h>
#include <zlib.h>

#include <random>
#include <vector>

#include "kernels/format/layout.h"

namespace lift {
namespace {

TEST(Crc32, IsZlibsAtEveryLengthAndAlignment) {
  std::mt19937_64 random(1);
  std::vector<std::byte> bytes(100000);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  const auto check = [&](size_t begin, size_t size) {
    const auto part = std::span(bytes).subspan(begin, size);
    const auto want = crc32_z(0, reinterpret_cast<const Bytef*>(part.data()), size);
    ASSERT_EQ(format::Crc32(part), want) << begin << " " << size;
  };
  for (size_t size = 0; size < 400; ++size) check(size % 17, size);
  for (const size_t size : {1023, 4096, 65537, 99990}) check(3, size);
  EXPECT_EQ(format::Crc32({}), 0u);
}

}  // namespace
}  // namespace lift
