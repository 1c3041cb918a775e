// Attention and its cache on a GPU, or on the emulated one: cells to the bit as the CPU's, outputs
// against the oracle on what the cache holds, and bits that depend on a row's sequence alone.
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <limits>

#include "kernels/base/float16.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/attention.h"
#include "tests/kernels/on_device.h"
#include "tests/kernels/paged_case.h"

namespace lift {
namespace {

using cuda::CommandQueue;
using cuda::OnDevice;
using reference::Mismatch;

constexpr KvFormat kFormats[] = {KvFormat::kF32, KvFormat::kF16, KvFormat::kBF16, KvFormat::kInt8};

const AttentionShape kShapes[] = {{9, 3, 64, 16, 0},  {4, 4, 24, 5, 0},   {8, 2, 128, 16, 0},
                                  {2, 1, 16, 64, 0},  {40, 2, 80, 16, 0}, {3, 1, 25, 5, 0},
                                  {2, 2, 256, 32, 0}, {1, 1, 1, 4, 0}};

class CudaAttention : public testing::Test {
 protected:
  void SetUp() override { queue_ = std::make_unique<CommandQueue>(); }
  void TearDown() override {
#if !defined(__CUDACC__)
    simt::SetOrder(simt::Order::kAscending);
#endif
  }

  // The whole histories, on the device from empty.
  std::vector<std::byte> Written(const PagedCase& c) {
    OnDevice<std::byte> cache(*queue_, std::vector<std::byte>(c.cache.size()));
    for (size_t i = 0; i < c.sequences.size(); ++i) {
      const int64_t all = c.sequences[i].position + c.sequences[i].tokens;
      const AttentionSequence whole[1] = {{0, all, 0, c.tables[i]}};
      OnDevice<float> k(*queue_, c.histories[i].k), v(*queue_, c.histories[i].v);
      cuda::QueueWriteKv(*queue_, cache.get(), c.shape, whole, k.get(), v.get());
      queue_->Synchronize();
    }
    return cache.Read();
  }

  std::vector<float> Attend(const PagedCase& c, std::span<const AttentionSequence> sequences) {
    OnDevice<std::byte> cache(*queue_, c.cache);
    OnDevice<float> q(*queue_, c.q);
    OnDevice<float> out(*queue_, std::vector<float>(c.q.size(), -7.0f));
    OnDevice<std::byte> workspace(*queue_, cuda::AttentionWorkspaceBytes(c.shape, sequences));
    cuda::QueueAttention(*queue_, cache.get(), c.shape, sequences, q.get(), out.get(),
                         reinterpret_cast<float*>(workspace.get()));
    return out.Read();
  }

  ThreadPool pool_{1};
  std::unique_ptr<Backend> cpu_ = MakeCpuBackend(pool_, CpuIsa::kPortable);
  std::unique_ptr<CommandQueue> queue_;
};

// In the order of Hadamard's matrix, from its definition: H D / sqrt(p) in blocks of p, undone.
std::vector<double> RotatedBack(const std::vector<double>& x) {
  const auto dim = static_cast<int64_t>(x.size()), power = dim & -dim;
  std::vector<double> out(x.size());
  for (int64_t i = 0; i < dim; ++i) {
    double sum = 0;
    for (int64_t j = i / power * power; j < (i / power + 1) * power; ++j) {
      const bool negative = __builtin_parityll(static_cast<uint64_t>(i & j & (power - 1))) != 0;
      sum += (negative ? -1 : 1) * x[static_cast<size_t>(j)];
    }
    const uint64_t mixed = static_cast<uint64_t>(i + 1) * 0x9E3779B97F4A7C15u;
    out[static_cast<size_t>(i)] =
        sum / std::sqrt(static_cast<double>(power)) * ((mixed >> 40 & 1) != 0 ? -1.0 : 1.0);
  }
  return out;
}

// One head's key (half 0) or value of the cache in the model's basis, by the layout that
// Backend::WriteKv documents.
std::vector<double> HeldRow(const PagedCase& c, size_t sequence, int64_t position, int half,
                            int64_t head) {
  const AttentionShape& s = c.shape;
  const int64_t bt = s.block_tokens, dim = s.head_dim, slot = position % bt;
  const std::byte* block =
      c.cache.data() + s.block_bytes() * c.tables[sequence][static_cast<size_t>(position / bt)];
  const auto get = [&](auto& value, int64_t at) { std::memcpy(&value, block + at, sizeof(value)); };
  std::vector<double> x(static_cast<size_t>(dim));
  for (int64_t d = 0; d < dim; ++d) {
    const int64_t at =
        (half * s.kv_heads + head) * bt * dim + (half == 0 ? d * bt + slot : slot * dim + d);
    float wide = 0;
    uint16_t bits = 0;
    int8_t byte = 0;
    if (s.format == KvFormat::kF32) get(wide, 4 * at);
    if (s.format == KvFormat::kF16) get(bits, 2 * at), wide = HalfToFloat(bits);
    if (s.format == KvFormat::kBF16) get(bits, 2 * at), wide = BFloat16ToFloat(bits);
    if (s.format == KvFormat::kInt8) get(byte, at), wide = byte;
    x[static_cast<size_t>(d)] = static_cast<double>(wide);
  }
  if (s.format != KvFormat::kInt8) return x;
  float scale = 0;
  get(scale, 2 * s.kv_heads * bt * dim + 4 * ((half * s.kv_heads + head) * bt + slot));
  for (double& value : x) value *= static_cast<double>(scale);
  return RotatedBack(x);
}

std::vector<reference::History> Held(const PagedCase& c) {
  std::vector<reference::History> out = c.histories;
  const int64_t heads = c.shape.kv_heads, dim = c.shape.head_dim;
  for (size_t i = 0; i < out.size(); ++i) {
    const int64_t count = c.sequences[i].position + c.sequences[i].tokens;
    for (int64_t p = 0; p < count; ++p) {
      for (int64_t row = 0; row < 2 * heads; ++row) {
        const std::vector<double> x = HeldRow(c, i, p, row < heads ? 0 : 1, row % heads);
        std::vector<float>& to = row < heads ? out[i].k : out[i].v;
        for (int64_t d = 0; d < dim; ++d)
          to[static_cast<size_t>((p * heads + row % heads) * dim + d)] =
              static_cast<float>(x[static_cast<size_t>(d)]);
      }
    }
  }
  return out;
}

std::string CheckOutput(const PagedCase& c, const std::vector<float>& out) {
  auto want = reference::Attention(Held(c), c.shape, c.sequences, c.q);
  if (c.shape.format == KvFormat::kInt8) {  // rotating there and back in single precision
    for (double& tolerance : want.tolerance) tolerance += 1e-5;
  }
  return Mismatch(out, want);
}

std::string Name(const AttentionShape& s) {
  return std::to_string(s.heads) + "/" + std::to_string(s.kv_heads) + " heads of " +
         std::to_string(s.head_dim) + ", blocks of " + std::to_string(s.block_tokens) +
         ", window " + std::to_string(s.window) + ", " + std::string(KvFormatName(s.format));
}

// Rows [from, from + count) of out.
std::vector<float> Rows(const PagedCase& c, const std::vector<float>& out, int64_t from,
                        int64_t count) {
  const int64_t width = c.shape.heads * c.shape.head_dim;
  return {out.begin() + from * width, out.begin() + (from + count) * width};
}

TEST_F(CudaAttention, CellsEqualTheCpus) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kSpecial[] = {
      1e6f,      -1e6f,   65519.9f, 1e-30f, -1e-41f,
      kInfinity, -0.0f,   3e-5f,    6e-8f,  -2.9e-8f,
      65504.1f,  3.4e38f, 1e-38f,   0.0f,   std::numeric_limits<float>::quiet_NaN()};
  for (AttentionShape shape : kShapes) {
    for (const KvFormat format : kFormats) {
      shape.format = format;
      PagedCase c(shape, {{0, 1}, {60, 11}, {0, 32}});
      for (size_t i = 0; i < std::size(kSpecial); ++i) {
        std::vector<float>& k = c.histories[1].k;
        k[i * 7 * static_cast<size_t>(shape.head_dim) % k.size()] = kSpecial[i];
      }
      std::fill_n(c.histories[2].v.begin(), shape.head_dim, 0.0f);
      c.Fill(*cpu_);
      const auto got = Written(c);
      ASSERT_EQ(got.size(), c.cache.size());
      const auto at = std::mismatch(got.begin(), got.end(), c.cache.begin()).first - got.begin();
      EXPECT_EQ(at, static_cast<int64_t>(got.size())) << Name(shape);
    }
  }
}

TEST_F(CudaAttention, WritingTokenByTokenEqualsWritingAll) {
  for (const KvFormat format : kFormats) {
    PagedCase c({3, 3, 24, 5, 0, 0, format}, {{0, 40}, {33, 1}});
    c.Fill(*cpu_);
    OnDevice<std::byte> cache(*queue_, std::vector<std::byte>(c.cache.size()));
    for (size_t i = 0; i < 2; ++i) {
      OnDevice<float> k(*queue_, c.histories[i].k), v(*queue_, c.histories[i].v);
      const int64_t all = c.sequences[i].position + c.sequences[i].tokens;
      for (int64_t p = 0, n = 0; p < all; p += n) {
        n = std::min<int64_t>(p % 3 + 1, all - p);
        const AttentionSequence step[1] = {{p, n, p, c.tables[i]}};
        cuda::QueueWriteKv(*queue_, cache.get(), c.shape, step, k.get(), v.get());
        queue_->Synchronize();
      }
    }
    EXPECT_EQ(cache.Read(), c.cache) << KvFormatName(format);
  }
}

TEST_F(CudaAttention, MatchesTheOracleOnWhatTheCacheHolds) {
  for (AttentionShape shape : kShapes) {
    for (const KvFormat format : kFormats) {
      shape.format = format;
      PagedCase c(shape, {{0, 1}, {130, 1}, {63, 2}, {520, 2}, {250, 7}});
      c.Fill(*cpu_);
      EXPECT_EQ(CheckOutput(c, Attend(c, c.sequences)), "") << Name(shape);
    }
  }
}

// Blocks behind the window have left the table.
TEST_F(CudaAttention, WindowsMatchTheOracleAndReadNothingBehindThem) {
  for (AttentionShape shape : {kShapes[0], kShapes[1], kShapes[5]}) {
    for (const int64_t window : {1, 37, 300}) {
      for (const KvFormat format : {KvFormat::kF16, KvFormat::kInt8}) {
        shape.window = window;
        shape.format = format;
        PagedCase c(shape, {{0, 1}, {700, 1}, {63, 2}, {510, 9}, {0, 40}});
        c.Fill(*cpu_);
        std::vector<std::vector<int32_t>> tables = c.tables;
        std::vector<AttentionSequence> sequences = c.sequences;
        for (size_t i = 0; i < sequences.size(); ++i) {
          const int64_t behind = std::max<int64_t>(sequences[i].position + 1 - window, 0);
          std::fill_n(tables[i].begin(), behind / shape.block_tokens, -1);
          sequences[i].blocks = tables[i];
        }
        EXPECT_EQ(CheckOutput(c, Attend(c, sequences)), "") << Name(shape);
      }
    }
  }
}

TEST_F(CudaAttention, RowsDependOnTheirSequenceAlone) {
  for (AttentionShape shape : {kShapes[0], kShapes[4], kShapes[5]}) {
    for (const int64_t window : {0, 290}) {
      for (const KvFormat format : {KvFormat::kF16, KvFormat::kInt8}) {
        shape.window = window;
        shape.format = format;
        PagedCase c(shape, {{500, 17}, {70, 1}});
        c.Fill(*cpu_);
        const std::vector<float> all = Attend(c, c.sequences);
        for (int64_t row = 0, n = 0; row < 17; row += n) {  // the first in pieces, alone
          n = row == 0 ? 1 : row == 1 ? 3 : 13;
          const AttentionSequence piece[1] = {{row, n, 500 + row, c.tables[0]}};
          EXPECT_EQ(Rows(c, Attend(c, piece), row, n), Rows(c, all, row, n)) << Name(shape);
        }
        const AttentionSequence alone[1] = {c.sequences[1]};
        EXPECT_EQ(Rows(c, Attend(c, alone), 17, 1), Rows(c, all, 17, 1)) << Name(shape);
      }
    }
  }
}

// One block for all spans of keys, where there are many rows, as one for each.
TEST_F(CudaAttention, ALargeBatchGivesTheSameBits) {
  PagedCase c({64, 32, 16, 16, 0, 0, KvFormat::kInt8}, {{300, 1}});
  c.Fill(*cpu_);
  std::vector<AttentionSequence> many(16, c.sequences[0]);
  EXPECT_GT(cuda::AttentionWorkspaceBytes(c.shape, c.sequences), 0u);
  EXPECT_EQ(cuda::AttentionWorkspaceBytes(c.shape, many), 0u);
  const std::vector<float> want = Attend(c, c.sequences);
  std::vector<float> q;
  for (size_t i = 0; i < many.size(); ++i) {
    many[i].first_row = static_cast<int64_t>(i);
    q.insert(q.end(), c.q.begin(), c.q.end());
  }
  c.q = q;
  const std::vector<float> got = Attend(c, many);
  for (int64_t i = 0; i < 16; ++i) ASSERT_EQ(Rows(c, got, i, 1), want) << i;
}

TEST_F(CudaAttention, ALongPromptGivesTheSameBitsAsItsTokens) {
  PagedCase c({128, 128, 8, 16, 0, 60, KvFormat::kInt8}, {{240, 64}});
  c.Fill(*cpu_);
  EXPECT_EQ(cuda::AttentionWorkspaceBytes(c.shape, c.sequences), 0u);
#if !defined(__CUDACC__)
  simt::SetOrder(simt::Order::kShuffled);
#endif
  const std::vector<float> all = Attend(c, c.sequences);
  EXPECT_EQ(CheckOutput(c, all), "");
  for (const int64_t row : {17, 40, 63}) {
    const AttentionSequence token[1] = {{row, 1, 240 + row, c.tables[0]}};
    EXPECT_GT(cuda::AttentionWorkspaceBytes(c.shape, token), 0u);
    EXPECT_EQ(Rows(c, Attend(c, token), row, 1), Rows(c, all, row, 1)) << row;
  }
}

TEST_F(CudaAttention, TheSameBitsForEveryBlockSize) {
  for (const KvFormat format : kFormats) {
    std::vector<float> want;
    for (const int64_t block_tokens : {16, 5, 64, 1}) {
      PagedCase c({4, 2, 40, block_tokens, 0, 100, format}, {{520, 5}});
      c.Fill(*cpu_);
      const std::vector<float> out = Attend(c, c.sequences);
      if (want.empty()) want = out;
      EXPECT_EQ(out, want) << Name(c.shape);
    }
  }
}

TEST_F(CudaAttention, AKeyThatIsNotFiniteHarmsItsOwnSequenceAlone) {
  for (const KvFormat format : {KvFormat::kBF16, KvFormat::kInt8}) {
    PagedCase c({2, 1, 32, 16, 0, 0, format}, {{20, 1}, {20, 1}});
    c.histories[0].k[5] = std::numeric_limits<float>::quiet_NaN();
    c.Fill(*cpu_);
    const std::vector<float> out = Attend(c, c.sequences);
    EXPECT_TRUE(std::isnan(out[0])) << KvFormatName(format);
    for (size_t i = 64; i < 128; ++i) EXPECT_TRUE(std::isfinite(out[i]));
  }
}

TEST_F(CudaAttention, WhatIsBehindTheWindowHarmsNothing) {
  for (const KvFormat format : kFormats) {
    PagedCase c({2, 1, 32, 16, 0, 10, format}, {{27, 1}});
    for (size_t i = 0; i < 18 * 32; ++i)  // the window begins at 18, inside a quad of keys
      c.histories[0].k[i] = c.histories[0].v[i] = std::numeric_limits<float>::quiet_NaN();
    c.Fill(*cpu_);
    for (const float x : Attend(c, c.sequences))
      ASSERT_TRUE(std::isfinite(x)) << KvFormatName(format);
  }
}

// Two layers' writing and attention for contexts that grow: one graph while they stay within a
// power of two, and outputs as without it.
TEST_F(CudaAttention, StepsReplayWhileContextsGrowWithinAPowerOfTwo) {
  constexpr int64_t kFirst = 270, kSteps = 6;
  for (const KvFormat format : {KvFormat::kF16, KvFormat::kInt8}) {
    PagedCase c({4, 2, 32, 16, 0, 0, format}, {{kFirst + kSteps - 1, 1}, {300 + kSteps - 1, 1}});
    c.Fill(*cpu_);
    OnDevice<std::byte> cache(*queue_, std::vector<std::byte>(c.cache.size()));
    OnDevice<float> q(*queue_, c.q), out(*queue_, c.q.size());
    const size_t width = static_cast<size_t>(c.shape.kv_heads * c.shape.head_dim);
    OnDevice<float> k(*queue_, 2 * width), v(*queue_, 2 * width);
    for (size_t i = 0; i < 2; ++i) {  // all but the last tokens
      const AttentionSequence start[1] = {
          {0, c.sequences[i].position - kSteps + 1, 0, c.tables[i]}};
      OnDevice<float> keys(*queue_, c.histories[i].k), values(*queue_, c.histories[i].v);
      cuda::QueueWriteKv(*queue_, cache.get(), c.shape, start, keys.get(), values.get());
      queue_->Synchronize();
    }
    std::vector<AttentionSequence> last = c.sequences;
    OnDevice<std::byte> workspace(*queue_, cuda::AttentionWorkspaceBytes(c.shape, last));
    const uint64_t before = queue_->replays();
    std::vector<float> got;
    for (int64_t step = 0; step < kSteps; ++step) {
      for (size_t i = 0; i < 2; ++i) {
        AttentionSequence& s = last[i];
        s.position = c.sequences[i].position - kSteps + 1 + step;
        const auto at = static_cast<size_t>(s.position) * width;
        queue_->Upload(c.histories[i].k.data() + at, width * sizeof(float), k.get() + i * width);
        queue_->Upload(c.histories[i].v.data() + at, width * sizeof(float), v.get() + i * width);
      }
      for (int layer = 0; layer < 2; ++layer) {
        cuda::QueueWriteKv(*queue_, cache.get(), c.shape, last, k.get(), v.get());
        cuda::QueueAttention(*queue_, cache.get(), c.shape, last, q.get(), out.get(),
                             reinterpret_cast<float*>(workspace.get()));
      }
      got = out.Read();
    }
    EXPECT_EQ(queue_->replays() - before, static_cast<uint64_t>(kSteps - 1));
    EXPECT_EQ(cache.Read(), c.cache) << KvFormatName(format);
    EXPECT_EQ(got, Attend(c, c.sequences)) << KvFormatName(format);
  }
}

// One staging for several layers, of which some have windows.
TEST_F(CudaAttention, LayersShareAStagedStep) {
  AttentionShape shape = kShapes[0];
  PagedCase c(shape, {{700, 1}, {20, 5}});
  c.Fill(*cpu_);
  shape = c.shape;
  AttentionShape windowed = shape;
  windowed.window = 50;
  OnDevice<std::byte> cache(*queue_, c.cache);
  OnDevice<float> q(*queue_, c.q), whole(*queue_, c.q.size()), recent(*queue_, c.q.size());
  OnDevice<std::byte> workspace(*queue_, cuda::AttentionWorkspaceBytes(shape, c.sequences));
  auto* scratch = reinterpret_cast<float*>(workspace.get());
  const cuda::AttentionStep step = cuda::StageAttention(*queue_, shape, c.sequences);
  EXPECT_LE(cuda::AttentionWorkspaceBytes(windowed, step),
            cuda::AttentionWorkspaceBytes(shape, step));
  cuda::QueueAttention(*queue_, cache.get(), shape, step, q.get(), whole.get(), scratch);
  cuda::QueueAttention(*queue_, cache.get(), windowed, step, q.get(), recent.get(), scratch);
  queue_->Synchronize();
  EXPECT_EQ(CheckOutput(c, whole.Read()), "");
  c.shape = windowed;
  EXPECT_EQ(CheckOutput(c, recent.Read()), "");
}

TEST_F(CudaAttention, StepsWithoutTokensDoNothing) {
  PagedCase c(kShapes[0], {{20, 1}, {30, 1}});
  c.Fill(*cpu_);
  const std::vector<float> want = Attend(c, c.sequences);
  std::vector<AttentionSequence> sequences = c.sequences;
  sequences.insert(sequences.begin() + 1, {0, 0, 7, {}});
  EXPECT_EQ(Attend(c, sequences), want);
  const std::vector<float> none = Attend(c, {});
  EXPECT_EQ(none, std::vector<float>(none.size(), -7.0f));
}

#if !defined(__CUDACC__)
TEST_F(CudaAttention, NoResultDependsOnTheOrderOfThreads) {
  for (const AttentionShape& base : {kShapes[0], kShapes[5]}) {
    for (const KvFormat format : {KvFormat::kF16, KvFormat::kInt8}) {
      AttentionShape shape = base;
      shape.format = format;
      PagedCase c(shape, {{300, 1}, {250, 9}});
      c.Fill(*cpu_);
      std::vector<float> want;
      for (const simt::Order order :
           {simt::Order::kAscending, simt::Order::kDescending, simt::Order::kShuffled}) {
        simt::SetOrder(order);
        EXPECT_EQ(Written(c), c.cache) << Name(shape);
        const std::vector<float> out = Attend(c, c.sequences);
        if (want.empty()) want = out;
        EXPECT_EQ(out, want) << Name(shape);
      }
    }
  }
}
#endif

}  // namespace
}  // namespace lift
