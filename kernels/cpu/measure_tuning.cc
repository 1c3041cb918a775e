// Which way is faster on this machine, by the clock.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <deque>

#include "kernels/base/float16.h"
#include "kernels/cpu/cpu_backend_impl.h"
#include "kernels/cpu/tuning_impl.h"
#include "kernels/format/parity_masks.h"

namespace lift::cpu {
namespace {

constexpr int kColumns[] = {1, 2, 4, 8, 16, 32};  // at once, up to CpuTuning::kMostColumns
constexpr int kFew = 4;                           // of them
constexpr int kPasses = 3, kSurePasses = 2;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// What is left of a time once the moments in which others had the machine are gone. Not the
// shortest: of many, one was lucky.
double LowerQuartile(std::vector<double>& seconds) {
  const auto at = seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 4);
  std::nth_element(seconds.begin(), at, seconds.end());
  return *at;
}

CpuTuning Everything() {
  CpuTuning tuning;
  for (auto& row : tuning.most) std::fill(row, std::end(row), CpuTuning::kMostColumns);
  return tuning;
}

LiftCode MakeCode(CodeStreams streams) {
  LiftCode code;
  code.stored = streams.stored;
  code.derived = streams.derived;
  code.steps = 8;
  if (code.derived > 0) code.masks = {kParityMasks[code.stored]};
  for (int i = 0; i < code.steps * code.streams(); ++i) {
    code.taps.push_back(static_cast<float>(i % 5 - 2) * 0.25f);
  }
  return code;
}

// Matrices over one walk through random planes; each measurement goes on where the last one ended,
// so that no caches of the threads hold what comes next.
class Planes {
 public:
  Planes(ThreadPool& pool, const CpuTuningOptions& options)
      : options_(options), scales_(static_cast<size_t>(MostRows()), FloatToHalf(1.0f)) {
    // Of a walk too short for the caches at least, and for a matrix of the most streams.
    const int64_t cache = std::max<int64_t>(sysconf(_SC_LEVEL2_CACHE_SIZE), 0);
    bytes_ = std::max({options.plane_bytes, 2 * cache * pool.threads(),
                       CpuTuning::kMostStored * StreamBytes(MostRows())});
    bytes_ = (bytes_ + kTileBytes - 1) / kTileBytes * kTileBytes;
    planes_.Reserve(static_cast<size_t>(bytes_));
    const int64_t tiles = bytes_ / kTileBytes;
    pool.ParallelFor(tiles, tiles / (4 * pool.threads()) + 1,
                     [&](int64_t begin, int64_t end, int) { Fill(begin, end); });
  }

  const std::byte* Next(int64_t rows, int stored) {
    const int64_t bytes = stored * StreamBytes(rows);
    if (at_ + bytes > bytes_) at_ = 0;
    const std::byte* next = planes_.data() + at_;
    at_ += bytes;
    return next;
  }
  const CpuTuningOptions& options() const { return options_; }
  const uint16_t* scales() const { return scales_.data(); }

 private:
  int64_t MostRows() const { return std::max(options_.rows, options_.rows_of_few); }
  int64_t StreamBytes(int64_t rows) const {
    return PaddedRows(rows) / kTileRows * PaddedColumns(options_.cols) / kTileColumns * kTileBytes;
  }
  void Fill(int64_t begin, int64_t end) {
    auto* words = reinterpret_cast<uint64_t*>(planes_.data());
    for (int64_t i = begin * kTileBytes / 8; i < end * kTileBytes / 8; ++i) {
      uint64_t x = static_cast<uint64_t>(i) * 0x9E3779B97F4A7C15u;  // splitmix64
      x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
      x = (x ^ x >> 27) * 0x94D049BB133111EBu;
      words[i] = x ^ x >> 31;
    }
  }

  const CpuTuningOptions options_;
  std::vector<uint16_t> scales_;
  AlignedArray<std::byte> planes_;
  int64_t bytes_ = 0, at_ = 0;
};

// One layer of one stage times some columns, for both ways.
class Race {
 public:
  Race(Planes& planes, CodeStreams streams, int columns)
      : planes_(planes), streams_(streams), columns_(columns), code_(MakeCode(streams)) {
    matrix_.rows = columns <= kFew ? planes.options().rows_of_few : planes.options().rows;
    matrix_.cols = site_.cols = planes.options().cols;
    matrix_.row_scale = planes.scales();
    matrix_.stages = {{&code_, 0, 1.0f, nullptr}};
    matrix_.stage_rows = {matrix_.rows};
    site_.codes = {&code_};
    site_.wide = {0};
    site_.used = {1};
  }

  // Once at least, for `seconds` about.
  void Run(Backend& lookups, Backend& products, double seconds) {
    const std::vector<uint8_t> variants(static_cast<size_t>(columns_), 0);
    std::vector<float> x(static_cast<size_t>(columns_ * site_.cols));
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 37 % 101) - 50.0f;
    std::vector<float> y(static_cast<size_t>(columns_ * matrix_.rows));
    const auto u = products.MakeLiftedActivations();
    products.Lift(site_, x.data(), columns_, variants, *u);
    const auto run = [&](Backend& backend) {
      matrix_.stages[0].planes = planes_.Next(matrix_.rows, code_.stored);
      const double start = Now();
      backend.LiftedMatmul(matrix_, *u, variants, y.data());
      return Now() - start;
    };
    const double end = Now() + seconds;
    do {  // each first in turns: what comes at regular times must not always meet the same one
      if (lookup_.size() % 2 == 0) lookup_.push_back(run(lookups));
      product_.push_back(run(products));
      if (lookup_.size() < product_.size()) lookup_.push_back(run(lookups));
    } while (Now() < end);
  }

  // Nothing that could still come would change what is faster.
  bool Decided() {
    constexpr double kFar = 1.25;
    const double ratio = LowerQuartile(product_) / LowerQuartile(lookup_);
    return ratio > kFar || ratio < 1 / kFar;
  }
  void Forget() {
    lookup_.clear();
    product_.clear();
  }

  CpuTuningPoint Result() {
    const double signs = static_cast<double>(matrix_.rows * site_.cols * code_.streams());
    return {streams_, columns_, signs * columns_, LowerQuartile(lookup_), LowerQuartile(product_)};
  }

 private:
  Planes& planes_;
  const CodeStreams streams_;
  const int columns_;
  const LiftCode code_;
  LiftedMatrix matrix_;
  LiftSite site_;
  std::vector<double> lookup_, product_;
};

}  // namespace

CpuTuningReport MeasureTuning(ThreadPool& pool, const Kernels& kernels,
                              const CpuTuningOptions& options) {
  CpuTuningReport report;
  const std::vector<CodeStreams> codes = TunableCodes(kernels);
  if (codes.empty()) return report;
  const auto lookups = MakeCpuBackendOn(pool, kernels, Everything());
  const auto products = MakeCpuBackendOn(pool, kernels, CpuTuning{});
  Planes planes(pool, options);
  std::deque<Race> races;  // they point into themselves
  for (const CodeStreams code : codes) {
    for (const int columns : kColumns) races.emplace_back(planes, code, columns);
  }
  races.back().Run(*lookups, *products, 0);  // the most memory that the others will need
  races.back().Forget();
  // Some of every race at a time, so that a slow spell of the machine is a part of each.
  const double slice = options.seconds / kPasses / static_cast<double>(races.size());
  for (int pass = 0; pass < kPasses; ++pass) {
    for (Race& race : races) {
      if (pass < kSurePasses || !race.Decided()) race.Run(*lookups, *products, slice);
    }
  }
  for (Race& race : races) report.points.push_back(race.Result());
  report.tuning = ChooseTuning(kernels, report.points);
  return report;
}

}  // namespace lift::cpu
