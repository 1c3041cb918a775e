// Dense products and rows on the GPU, or emulated: every stored type, few tokens and many.
#include <gtest/gtest.h>

#include <bit>
#include <cstring>

#include "kernels/base/decode_blocks.h"
#include "kernels/cuda/dense.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/cuda_device.h"
#include "tests/kernels/on_device.h"
#include "tests/kernels/random_lifted.h"

namespace lift::cuda {
namespace {

using reference::Mismatch;

constexpr DType kAll[] = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kQ4_0, DType::kQ4_1,
                          DType::kQ5_0, DType::kQ5_1, DType::kQ8_0, DType::kQ2_K, DType::kQ3_K,
                          DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};

// Where a block of the type has its binary16 scales; -1: nowhere.
struct ScalePlaces {
  int first, second;
};
ScalePlaces PlacesOf(DType type) {
  switch (type) {
    case DType::kQ4_1:
    case DType::kQ5_1:
    case DType::kQ4_K:
    case DType::kQ5_K:
      return {0, 2};
    case DType::kQ2_K:
      return {80, 82};
    case DType::kQ3_K:
      return {108, -1};
    case DType::kQ6_K:
      return {208, -1};
    default:
      return {0, -1};
  }
}

struct Weights {
  DType type;
  int64_t rows, cols;
  std::vector<std::byte> bytes;
  std::vector<float> decoded;
};

// Blocks of random bits whose scales are about 0.01.
Weights MakeWeights(DType type, int64_t rows, int64_t cols) {
  Weights w{type, rows, cols, {}, RandomFloats(rows * cols, 21)};
  w.bytes.resize(RowBytes(type, cols) * static_cast<size_t>(rows));
  if (BlockElements(type) == 1) {
    for (size_t i = 0; i < w.decoded.size(); ++i) {
      const uint16_t half = FloatToHalf(w.decoded[i]), brain = FloatToBFloat16(w.decoded[i]);
      if (type == DType::kF32) std::memcpy(&w.bytes[4 * i], &w.decoded[i], 4);
      if (type == DType::kF16) std::memcpy(&w.bytes[2 * i], &half, 2);
      if (type == DType::kBF16) std::memcpy(&w.bytes[2 * i], &brain, 2);
    }
  } else {
    std::mt19937_64 random(22);
    for (std::byte& b : w.bytes) b = static_cast<std::byte>(random());
    const ScalePlaces places = PlacesOf(type);
    for (size_t block = 0; block < w.bytes.size(); block += BlockBytes(type)) {
      for (const int at : {places.first, places.second}) {
        const uint16_t scale = FloatToHalf(0.005f + 0.0001f * static_cast<float>(random() % 100));
        if (at >= 0) std::memcpy(&w.bytes[block + static_cast<size_t>(at)], &scale, 2);
      }
    }
  }
  Dequantize(type, w.bytes.data(), w.decoded);
  return w;
}

class Product {
 public:
  Product(CommandQueue& queue, const Weights& w, size_t offset = 0)
      : queue_(queue),
        bytes_(queue, w.bytes, offset),
        view_{w.type, w.rows, w.cols, bytes_.get()} {}
  // Of `tokens` rows of x from row `first`.
  std::vector<float> Multiply(const std::vector<float>& x, int64_t first, int64_t tokens) {
    const auto begin = x.begin() + first * view_.cols;
    const OnDevice<float> in(queue_, std::vector<float>(begin, begin + tokens * view_.cols));
    const OnDevice<float> out(queue_,
                              std::vector<float>(static_cast<size_t>(tokens * view_.rows), 99.0f));
    QueueDenseMatmul(queue_, view_, in.get(), tokens, out.get());
    return out.Read();
  }
  std::vector<float> Rows(const std::vector<int32_t>& rows) {
    const OnDevice<int32_t> which(queue_, rows);
    const OnDevice<float> out(
        queue_, std::vector<float>(rows.size() * static_cast<size_t>(view_.cols), 99.0f));
    QueueDenseRows(queue_, view_, which.get(), static_cast<int64_t>(rows.size()), out.get());
    return out.Read();
  }

 private:
  CommandQueue& queue_;
  OnDevice<std::byte> bytes_;
  DenseMatrixView view_;
};

// The definition of an output's order of additions.
float InOrder(const Weights& w, int64_t row, const std::vector<float>& x, int64_t token) {
  float lanes[32] = {};
  for (int64_t c = 0; c < (w.cols + 255) / 256 * 256; ++c) {
    const bool inside = c < w.cols;
    const float weight = inside ? w.decoded[static_cast<size_t>(row * w.cols + c)] : 0.0f;
    const float input = inside ? x[static_cast<size_t>(token * w.cols + c)] : 0.0f;
    float& lane = lanes[c / 8 % 32];
    lane = std::fma(weight, input, lane);
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    for (int i = 0; i < offset; ++i) lanes[i] += lanes[i + offset];
  }
  return lanes[0];
}

struct Shape {
  DType type;
  int64_t rows, cols;
};
std::vector<Shape> Shapes() {
  std::vector<Shape> shapes = {{DType::kF32, 1, 1},      {DType::kF32, 33, 33},
                               {DType::kF32, 5, 1030},   {DType::kF16, 17, 111},
                               {DType::kF16, 20, 100},   {DType::kBF16, 111, 262},
                               {DType::kQ8_0, 19, 1120}, {DType::kQ4_0, 3, 32}};
  for (const DType type : kAll)
    shapes.push_back({type, 21, BlockElements(type) == 256 ? 768 : 608});
  return shapes;
}

TEST(CudaDense, ProductMatchesOracleWithEqualBitsForAnyNumberOfTokens) {
  for (const Shape& shape : Shapes()) {
    const Weights w = MakeWeights(shape.type, shape.rows, shape.cols);
    const std::vector<float> x = RandomFloats(40 * w.cols, 23);
    const auto want = reference::DenseMatmul(w.decoded, w.rows, w.cols, x, 40);
    std::vector<float> in_order;
    for (int64_t t = 0; t < 40; ++t) {
      for (int64_t r = 0; r < w.rows; ++r) in_order.push_back(InOrder(w, r, x, t));
    }
    const auto expect_equal = [&](const std::vector<float>& got, int64_t first) {
      EXPECT_EQ(std::memcmp(got.data(), in_order.data() + first * w.rows, 4 * got.size()), 0)
          << DTypeName(w.type) << " " << w.rows << "x" << w.cols << ", " << got.size()
          << " outputs";
    };
    CommandQueue queue;
    Product product(queue, w);
    InEveryOrder([&] {
      const std::vector<float> all = product.Multiply(x, 0, 40);
      EXPECT_EQ(Mismatch(all, want), "") << DTypeName(w.type);
      expect_equal(all, 0);
      expect_equal(product.Multiply(x, 7, 1), 7);
      expect_equal(product.Multiply(x, 2, 3), 2);
      expect_equal(product.Multiply(x, 30, 8), 30);
      expect_equal(product.Multiply(x, 31, 9), 31);
    });
  }
}

TEST(CudaDense, UnalignedWeightsGiveTheSameBits) {
  for (const DType type : kAll) {
    const Weights w = MakeWeights(type, 3, 512);
    const std::vector<float> x = RandomFloats(9 * w.cols, 24);
    CommandQueue queue;
    Product aligned(queue, w);
    const std::vector<float> one = aligned.Multiply(x, 3, 1), nine = aligned.Multiply(x, 0, 9);
    for (const size_t offset : {1, 2, 4, 8}) {
      Product shifted(queue, w, offset);
      EXPECT_EQ(shifted.Multiply(x, 3, 1), one) << DTypeName(type) << " " << offset;
      EXPECT_EQ(shifted.Multiply(x, 0, 9), nine) << DTypeName(type) << " " << offset;
    }
  }
}

TEST(CudaDense, RowsAreEqualToDequantizeToTheBit) {
  for (const Shape& shape : Shapes()) {
    const Weights w = MakeWeights(shape.type, shape.rows, shape.cols);
    const std::vector<int32_t> rows = {static_cast<int32_t>(w.rows - 1), 0,
                                       static_cast<int32_t>(w.rows / 2), 0};
    for (const size_t offset : {0, 1, 2}) {
      CommandQueue queue;
      InEveryOrder([&] {
        const std::vector<float> got = Product(queue, w, offset).Rows(rows);
        for (size_t i = 0; i < rows.size(); ++i) {
          const auto cols = static_cast<size_t>(w.cols);
          const float* want = w.decoded.data() + static_cast<size_t>(rows[i]) * cols;
          EXPECT_EQ(std::memcmp(got.data() + i * cols, want, sizeof(float) * cols), 0)
              << DTypeName(w.type) << " row " << rows[i];
        }
      });
    }
  }
}

TEST(CudaDense, NothingToDoIsNothing) {
  CommandQueue queue;
  const Weights w = MakeWeights(DType::kF32, 2, 3);
  const DenseMatrixView view{w.type, w.rows, w.cols, w.bytes.data()};
  QueueDenseMatmul(queue, view, nullptr, 0, nullptr);
  QueueDenseRows(queue, view, nullptr, 0, nullptr);
  queue.Synchronize();
  EXPECT_EQ(queue.batches(), 0u);
}

TEST(DecodeBlocks, HalvesWidenAsOnTheHost) {
  for (uint32_t code = 0; code <= 0xFFFF; ++code) {
    const auto half = static_cast<uint16_t>(code);
    EXPECT_EQ(std::bit_cast<uint32_t>(blocks::WidenHalf(half)),
              std::bit_cast<uint32_t>(HalfToFloat(half)));
  }
}

}  // namespace
}  // namespace lift::cuda
