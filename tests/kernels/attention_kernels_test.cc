#include <gtest/gtest.h>

#include <cstring>

#include "kernels/base/float16.h"
#include "tests/kernels/kernel_tables.h"
#include "tests/kernels/paged_case.h"

namespace lift {
namespace {

using reference::Mismatch;

constexpr KvFormat kFormats[] = {KvFormat::kF32, KvFormat::kF16, KvFormat::kBF16, KvFormat::kInt8};

class AttentionKernels : public testing::TestWithParam<const cpu::Kernels*> {
 protected:
  ThreadPool pool_{2};
  std::unique_ptr<Backend> backend_ = cpu::MakeCpuBackendOn(pool_, *GetParam());
};

// One number of the cache, by the layout that Backend::WriteKv documents. half: 0 keys, 1 values.
struct CellReader {
  const PagedCase& c;
  const std::vector<int32_t>& table;

  const std::byte* block(int64_t position) const {
    return c.cache.data() + c.shape.block_bytes() * table[position / c.shape.block_tokens];
  }
  int64_t cell(int half, int64_t head, int64_t position, int64_t d) const {
    const int64_t bt = c.shape.block_tokens, dim = c.shape.head_dim, slot = position % bt;
    return (half * c.shape.kv_heads + head) * bt * dim +
           (half == 0 ? d * bt + slot : slot * dim + d);
  }
  template <typename T>
  T get(int64_t position, int64_t byte) const {
    T value;
    std::memcpy(&value, block(position) + byte, sizeof(T));
    return value;
  }
  float scale(int half, int64_t head, int64_t position) const {
    const int64_t bt = c.shape.block_tokens;
    const int64_t cells = 2 * c.shape.kv_heads * bt * c.shape.head_dim;
    return get<float>(position,
                      cells + 4 * ((half * c.shape.kv_heads + head) * bt + position % bt));
  }
  double read(int half, int64_t head, int64_t position, int64_t d) const {
    const int64_t at = cell(half, head, position, d);
    switch (c.shape.format) {
      case KvFormat::kF32:
        return get<float>(position, 4 * at);
      case KvFormat::kF16:
        return HalfToFloat(get<uint16_t>(position, 2 * at));
      case KvFormat::kBF16:
        return BFloat16ToFloat(get<uint16_t>(position, 2 * at));
      case KvFormat::kInt8:
        break;
    }
    return static_cast<double>(scale(half, head, position)) * get<int8_t>(position, at);
  }
};

// The rotation of int8 cells in double, from its definition: H D / sqrt(p) in blocks of p.
std::vector<double> Rotated(std::vector<double> x, bool back) {
  const auto dim = static_cast<int64_t>(x.size()), power = dim & -dim;
  std::vector<double> out(x.size());
  const auto sign = [](int64_t i) {
    return (static_cast<uint64_t>(i + 1) * 0x9E3779B97F4A7C15u >> 40 & 1) != 0 ? -1.0 : 1.0;
  };
  for (int64_t i = 0; i < dim; ++i) {
    double sum = 0;
    for (int64_t j = i / power * power; j < (i / power + 1) * power; ++j) {
      const double h = __builtin_parityll(static_cast<uint64_t>(i & j & (power - 1))) ? -1 : 1;
      sum += h * x[static_cast<size_t>(j)] * (back ? 1 : sign(j));
    }
    out[static_cast<size_t>(i)] =
        sum / std::sqrt(static_cast<double>(power)) * (back ? sign(i) : 1);
  }
  return out;
}

// What the cache holds, in the model's own basis.
reference::History ReadBack(const PagedCase& c, size_t sequence) {
  const int64_t heads = c.shape.kv_heads, dim = c.shape.head_dim;
  const CellReader cells{c, c.tables[sequence]};
  reference::History out = c.histories[sequence];
  const auto count = static_cast<int64_t>(out.k.size()) / (heads * dim);
  for (int64_t p = 0; p < count; ++p) {
    for (int64_t row = 0; row < 2 * heads; ++row) {
      const int half = row < heads ? 0 : 1;
      const int64_t head = row % heads;
      std::vector<double> x(static_cast<size_t>(dim));
      for (int64_t d = 0; d < dim; ++d) x[static_cast<size_t>(d)] = cells.read(half, head, p, d);
      if (c.shape.format == KvFormat::kInt8) x = Rotated(x, true);
      float* to = (half == 0 ? out.k : out.v).data() + (p * heads + head) * dim;
      for (int64_t d = 0; d < dim; ++d) to[d] = static_cast<float>(x[static_cast<size_t>(d)]);
    }
  }
  return out;
}

const AttentionShape kShapes[] = {
    {9, 3, 64, 16, 0}, {4, 4, 24, 5, 0}, {8, 2, 128, 16, 0}, {2, 1, 16, 64, 0}};

TEST_P(AttentionKernels, AttentionMatchesOracle) {
  for (const AttentionShape& shape : kShapes) {
    PagedCase c(shape, {{0, 1}, {0, 37}, {130, 1}, {63, 2}, {64, 70}});
    c.Fill(*backend_);
    std::vector<float> out(c.q.size());
    backend_->Attention(c.cache.data(), c.shape, c.sequences, c.q.data(), out.data());
    const auto want = reference::Attention(c.histories, c.shape, c.sequences, c.q);
    EXPECT_EQ(Mismatch(out, want), "") << shape.head_dim;
  }
}

TEST_P(AttentionKernels, WindowedAttentionMatchesOracle) {
  for (AttentionShape shape : kShapes) {
    for (const int64_t window : {1, 37, 64, 100}) {
      shape.window = window;
      PagedCase c(shape, {{0, 1}, {0, 37}, {130, 1}, {63, 2}, {64, 70}, {0, 150}});
      c.Fill(*backend_);
      std::vector<float> out(c.q.size());
      backend_->Attention(c.cache.data(), c.shape, c.sequences, c.q.data(), out.data());
      const auto want = reference::Attention(c.histories, c.shape, c.sequences, c.q);
      EXPECT_EQ(Mismatch(out, want), "") << shape.head_dim << " window " << window;
    }
  }
}

TEST_P(AttentionKernels, AttentionRowsDoNotDependOnChunkingBatchOrThreads) {
  std::vector<AttentionShape> shapes(std::begin(kShapes), std::end(kShapes));
  for (const AttentionShape& shape : kShapes) {
    shapes.push_back(shape);
    shapes.back().window = 23;
  }
  for (const AttentionShape& shape : shapes) {
    PagedCase c(shape, {{0, 90}, {70, 3}});
    c.Fill(*backend_);
    std::vector<float> all(c.q.size()), piece(c.q.size());
    backend_->Attention(c.cache.data(), c.shape, c.sequences, c.q.data(), all.data());
    ThreadPool one(1);
    const auto serial = cpu::MakeCpuBackendOn(one, *GetParam());
    for (int64_t step = 0; step < 90; step += 7) {  // the first sequence again, in small chunks
      const AttentionSequence chunk[1] = {
          {step, std::min<int64_t>(7, 90 - step), step, c.tables[0]}};
      serial->Attention(c.cache.data(), c.shape, chunk, c.q.data(), piece.data());
    }
    const size_t bytes = static_cast<size_t>(90 * shape.heads * shape.head_dim) * sizeof(float);
    EXPECT_EQ(std::memcmp(all.data(), piece.data(), bytes), 0) << shape.head_dim;
  }
}

TEST_P(AttentionKernels, EveryFormatMatchesTheOracleOnWhatTheCacheHolds) {
  for (AttentionShape shape : kShapes) {
    for (const KvFormat format : kFormats) {
      shape.format = format;
      PagedCase c(shape, {{0, 1}, {130, 1}, {63, 2}, {1100, 3}});
      c.Fill(*backend_);
      std::vector<reference::History> held;
      for (size_t i = 0; i < c.histories.size(); ++i) held.push_back(ReadBack(c, i));
      std::vector<float> out(c.q.size());
      backend_->Attention(c.cache.data(), c.shape, c.sequences, c.q.data(), out.data());
      auto want = reference::Attention(held, c.shape, c.sequences, c.q);
      if (format == KvFormat::kInt8) {  // rotating there and back in single precision
        for (double& tolerance : want.tolerance) tolerance += 1e-5;
      }
      EXPECT_EQ(Mismatch(out, want), "") << shape.head_dim << " " << KvFormatName(format);
    }
  }
}

TEST_P(AttentionKernels, CellsAreWithinHalfAStepOfWhatWasStored) {
  for (AttentionShape shape : kShapes) {
    for (const KvFormat format : kFormats) {
      shape.format = format;
      PagedCase c(shape, {{0, 37}});
      c.histories[0].k[3] = 1e6f;  // beyond binary16
      c.Fill(*backend_);
      const CellReader cells{c, c.tables[0]};
      for (int64_t p = 0; p < 37; ++p) {
        for (int64_t head = 0; head < shape.kv_heads; ++head) {
          const float* k = c.histories[0].k.data() + (p * shape.kv_heads + head) * shape.head_dim;
          std::vector<double> x(k, k + shape.head_dim);
          if (format == KvFormat::kInt8) x = Rotated(x, false);
          for (int64_t d = 0; d < shape.head_dim; ++d) {
            const double want = x[static_cast<size_t>(d)], got = cells.read(0, head, p, d);
            double step = 0;
            if (format == KvFormat::kF16) step = std::max(std::abs(want) * 0x1p-11, 0x1p-25);
            if (format == KvFormat::kBF16) step = std::abs(want) * 0x1p-8;
            if (format == KvFormat::kInt8) step = 0.5001 * cells.scale(0, head, p);
            if (format == KvFormat::kF16 && want > 65504) {
              EXPECT_EQ(got, 65504.0);
            } else {
              ASSERT_LE(std::abs(got - want), step) << KvFormatName(format) << " " << p << " " << d;
            }
          }
        }
      }
    }
  }
}

// The same sequences with other tables, threads, chunks and block sizes.
TEST_P(AttentionKernels, EqualToTheBitForEveryTableThreadCountChunkAndBlockSize) {
  constexpr int64_t kTokens = 1100;
  ThreadPool one(1), four(4);
  const auto portable = cpu::MakeCpuBackendOn(one, cpu::PortableKernels());
  const auto wide = cpu::MakeCpuBackendOn(four, *GetParam());
  for (AttentionShape shape : {AttentionShape{4, 2, 24, 16, 0}, AttentionShape{2, 1, 64, 16, 0}}) {
    for (const KvFormat format : kFormats) {
      shape.format = format;
      shape.window = shape.head_dim == 24 ? 700 : 0;
      const auto run = [&](Backend& backend, int64_t block_tokens, int64_t chunk) {
        shape.block_tokens = block_tokens;
        PagedCase c(shape, {{kTokens - 40, 40}});
        c.Fill(backend);
        std::vector<float> out(c.q.size());
        const int64_t row = shape.heads * shape.head_dim;
        for (int64_t i = 0; i < 40; i += chunk) {
          const AttentionSequence part[1] = {
              {i, std::min(chunk, 40 - i), kTokens - 40 + i, c.tables[0]}};
          backend.Attention(c.cache.data(), c.shape, part, c.q.data(), out.data());
        }
        EXPECT_EQ(out.size(), static_cast<size_t>(40 * row));
        return out;
      };
      const std::vector<float> want = run(*portable, 16, 40);
      EXPECT_EQ(run(*backend_, 16, 40), want) << KvFormatName(format);
      EXPECT_EQ(run(*wide, 16, 1), want) << KvFormatName(format);
      EXPECT_EQ(run(*wide, 5, 7), want) << KvFormatName(format);
      EXPECT_EQ(run(*backend_, 64, 1), want) << KvFormatName(format);
    }
  }
}

TEST_P(AttentionKernels, AKeyThatIsNotFiniteHarmsItsOwnSequenceAlone) {
  for (const KvFormat format : {KvFormat::kBF16, KvFormat::kInt8}) {
    PagedCase c({2, 1, 32, 16, 0, 0, format}, {{20, 1}, {20, 1}});
    c.histories[0].k[5] = std::numeric_limits<float>::quiet_NaN();
    c.Fill(*backend_);
    std::vector<float> out(c.q.size());
    backend_->Attention(c.cache.data(), c.shape, c.sequences, c.q.data(), out.data());
    EXPECT_TRUE(std::isnan(out[0])) << KvFormatName(format);
    for (size_t i = 64; i < 128; ++i) EXPECT_TRUE(std::isfinite(out[i]));
  }
}

INSTANTIATE_TEST_SUITE_P(Tables, AttentionKernels, testing::ValuesIn(AllTables()),
                         [](const auto& info) { return TableName(info.param); });

TEST(KvFormats, HaveNamesAndSizes) {
  for (const KvFormat format : kFormats) EXPECT_EQ(ParseKvFormat(KvFormatName(format)), format);
  EXPECT_FALSE(ParseKvFormat("fp8").has_value());
  EXPECT_EQ(KvHeadBytes(KvFormat::kF32, 64), 256);
  EXPECT_EQ(KvHeadBytes(KvFormat::kF16, 64), 128);
  EXPECT_EQ(KvHeadBytes(KvFormat::kBF16, 64), 128);
  EXPECT_EQ(KvHeadBytes(KvFormat::kInt8, 64), 68);
}

}  // namespace
}  // namespace lift
