#include "tests/bench/bench_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <random>

#include "kernels/base/float16.h"
#include "kernels/format/parity_masks.h"
#include "tests/bench/read_loop.h"

namespace lift::bench {
namespace {

constexpr size_t kFootprint = 96 << 20;  // planes of one measurement, beyond any cache

struct alignas(64) Line {
  uint64_t words[8];
};

std::vector<float> RandomFloats(int64_t n) {
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> out(static_cast<size_t>(n));
  for (float& value : out) value = normal(random);
  return out;
}

LiftCode MakeCode(int stored, int derived) {
  LiftCode code;
  code.stored = stored;
  code.derived = derived;
  code.steps = 8;
  code.taps = RandomFloats(int64_t{8} * code.streams());
  const auto lagged = [&](int lag) { return uint64_t{1} << (lag * code.streams()); };
  const uint64_t other = lagged(0) | lagged(1) | lagged(3) | lagged(4) | lagged(5);
  code.masks.assign(static_cast<size_t>(derived), derived == 1 ? kParityMasks[stored] : other);
  return code;
}

// Many one-stage matrices over one buffer of random planes.
class LiftedBench {
 public:
  LiftedBench(int64_t rows, int64_t cols, int stored, int derived, size_t footprint = kFootprint)
      : rotation_({true, 1}, cols),
        code_(MakeCode(stored, derived)),
        scales_(static_cast<size_t>(rows), FloatToHalf(1.0f)) {
    plane_bytes_ = static_cast<size_t>(PaddedRows(rows) / kTileRows * PaddedColumns(cols) /
                                       kTileColumns * stored * kTileBytes);
    const size_t count = footprint / plane_bytes_ + 1;
    planes_.resize(count * plane_bytes_ / sizeof(Line));
    std::mt19937_64 random(2);
    for (Line& line : planes_) {
      for (uint64_t& word : line.words) word = random();
    }
    for (size_t i = 0; i < count; ++i) {
      LiftedMatrix& w = matrices_.emplace_back();
      w.rows = rows;
      w.cols = cols;
      w.row_scale = scales_.data();
      w.stages.push_back(
          {&code_, 0, 1.0f, reinterpret_cast<const std::byte*>(planes_.data()) + i * plane_bytes_});
      w.stage_rows = {rows};
    }
    site_.cols = cols;
    site_.rotation = &rotation_;
    site_.codes = {&code_};
    site_.wide = {0};
    site_.used = {1};
  }

  LiftedPoint Run(Backend& backend, int64_t tokens, double read_bandwidth, double seconds) {
    const std::vector<float> x = RandomFloats(tokens * site_.cols);
    std::vector<float> y(static_cast<size_t>(tokens * matrices_[0].rows));
    const std::vector<uint8_t> variants(static_cast<size_t>(tokens), 0);
    auto u = backend.MakeLiftedActivations();
    size_t next = 0;
    LiftedPoint point{code_.stored, code_.derived, tokens, 0, 0, 0, 0, 0};
    point.lift_seconds =
        MeanSeconds(seconds / 4, [&] { backend.Lift(site_, x.data(), tokens, variants, *u); });
    point.seconds = MeanSeconds(seconds, [&] {
      backend.LiftedMatmul(matrices_[next++ % matrices_.size()], *u, variants, y.data());
    });
    point.plane_bytes_per_second = static_cast<double>(plane_bytes_) / point.seconds;
    point.bandwidth_fraction = point.plane_bytes_per_second / read_bandwidth;
    point.multiply_adds_per_second =
        static_cast<double>(matrices_[0].rows * site_.cols * code_.streams() * tokens) /
        point.seconds;
    return point;
  }

 private:
  Rotation rotation_;
  LiftCode code_;
  std::vector<uint16_t> scales_;
  std::vector<Line> planes_;
  size_t plane_bytes_;
  std::vector<LiftedMatrix> matrices_;
  LiftSite site_;
};

DensePoint BenchDense(Backend& backend, const std::vector<float>& weights, int64_t rows,
                      int64_t cols, int64_t tokens, double seconds) {
  const DenseMatrixView view{DType::kF32, rows, cols,
                             reinterpret_cast<const std::byte*>(weights.data())};
  const std::vector<float> x = RandomFloats(tokens * cols);
  std::vector<float> y(static_cast<size_t>(tokens * rows));
  DensePoint point{tokens, 0, 0};
  point.seconds =
      MeanSeconds(seconds, [&] { backend.DenseMatmul(view, x.data(), tokens, y.data()); });
  point.flops = 2.0 * static_cast<double>(rows * cols * tokens) / point.seconds;
  return point;
}

// One layer of 32 heads of 128 dimensions, each with its own keys and values.
AttentionPoint BenchAttention(Backend& backend, KvFormat format, int64_t tokens, int64_t context,
                              double read_bandwidth, double seconds) {
  const AttentionShape shape{32, 32, 128, 16, 0.088f, 0, format};
  const int64_t blocks = (context + tokens + 15) / 16;
  std::vector<int32_t> table(static_cast<size_t>(blocks));
  std::iota(table.begin(), table.end(), 0);
  std::vector<std::byte> cache(static_cast<size_t>(blocks * shape.block_bytes()));
  const std::vector<float> q = RandomFloats(tokens * 32 * 128);
  std::vector<float> out(q.size());
  for (int64_t at = 0; at <= context; at += tokens) {  // real keys and values everywhere
    const AttentionSequence part[1] = {{0, std::min(tokens, context + tokens - at), at, table}};
    backend.WriteKv(cache.data(), shape, part, q.data(), q.data());
  }
  AttentionPoint point{std::string(KvFormatName(format)), tokens, context, 0, 0};
  const AttentionSequence sequences[1] = {{0, tokens, context, table}};
  point.seconds = MeanSeconds(
      seconds, [&] { backend.Attention(cache.data(), shape, sequences, q.data(), out.data()); });
  const double bytes = static_cast<double>((context + tokens) * shape.block_bytes() / 16);
  point.bandwidth_fraction = bytes / point.seconds / read_bandwidth;
  return point;
}

}  // namespace

double PeakMultiplyAdds(Backend& backend, double seconds) {
  double peak = 0;
  for (const auto& [stored, derived] : {std::pair{2, 0}, {2, 1}}) {
    LiftedBench bench(1024, 1024, stored, derived, /*footprint=*/0);
    for (const int64_t tokens : {1, 2, 8, 32}) {
      const LiftedPoint point = bench.Run(backend, tokens, 1, seconds);
      peak = std::max(peak, point.multiply_adds_per_second);
    }
  }
  return peak;
}

KernelReport BenchKernels(Backend& backend, double read_bandwidth, int64_t rows, int64_t cols,
                          const std::vector<int64_t>& tokens, double seconds) {
  KernelReport report;
  for (const auto& [stored, derived] :
       {std::pair{1, 0}, {2, 0}, {3, 0}, {4, 0}, {1, 1}, {2, 1}, {3, 1}, {4, 1}, {2, 2}}) {
    std::fprintf(stderr, "planes: %d stored, %d derived\n", stored, derived);
    LiftedBench bench(rows, cols, stored, derived);
    for (const int64_t n : tokens) {
      report.lifted.push_back(bench.Run(backend, n, read_bandwidth, seconds));
    }
  }
  std::fprintf(stderr, "dense and attention\n");
  const std::vector<float> weights = RandomFloats(rows * cols);
  for (const int64_t n : tokens) {
    report.dense.push_back(BenchDense(backend, weights, rows, cols, n, seconds));
  }
  for (const auto& [n, context] : {std::pair<int64_t, int64_t>{1, 2047}, {512, 0}}) {
    for (const KvFormat format : {KvFormat::kF32, KvFormat::kF16, KvFormat::kBF16, KvFormat::kInt8})
      report.attention.push_back(
          BenchAttention(backend, format, n, context, read_bandwidth, seconds));
  }
  return report;
}

}  // namespace lift::bench
