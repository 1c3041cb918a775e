#include "calibration/encoder.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "calibration/beam_search.h"
#include "calibration/codes.h"
#include "kernels/base/check.h"

namespace lift {
namespace {

// Targets this many deviations of the code's output away are rare and hard to reach.
constexpr float kFar = 1.8f;
// Errors above so many of their own deviations cost kOver times their excess more.
constexpr float kLimit = 3.0f, kOver = 4.0f;
// Mean squared error of codes of 1 to 4 stored bits on a unit Gaussian, roughly.
constexpr float kTypicalError[] = {1.0f, 0.29f, 0.077f, 0.0195f, 0.0051f};

// Mean square of e where (I + U)^T e = white noise, by a few fixed noises.
double NoiseSpread(const LdlFactor& factor, int64_t live) {
  constexpr int kNoises = 4;
  uint64_t state = 1;
  double sum = 0;
  std::vector<float> e(static_cast<size_t>(live));
  for (int i = 0; i < kNoises; ++i) {
    for (float& x : e) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      x = (state >> 63) != 0 ? 1.0f : -1.0f;
    }
    for (int64_t s = 0; s < live; ++s) {
      const float* u = &factor.upper[static_cast<size_t>(s * factor.n)];
      const float x = e[static_cast<size_t>(s)];
      sum += static_cast<double>(x) * x;
      for (int64_t k = s + 1; k < live; ++k) e[static_cast<size_t>(k)] -= x * u[k];
    }
  }
  return sum / static_cast<double>(kNoises * live);
}

// The upper triangle of h [n, n] with both sides turned to begin at `start`: its first `size` rows
// and columns.
std::vector<float> TurnedUpper(const std::vector<float>& h, int64_t n, int64_t start,
                               int64_t size) {
  std::vector<float> out(static_cast<size_t>(size * size));
  for (int64_t i = 0; i < size; ++i) {
    const auto row = h.begin() + (i + start) % n * n;
    const auto turn = [&](int64_t j) { return row + (j + start) % n; };
    const int64_t wrap = std::clamp(n - start, i, size);  // the first column that begins anew
    const auto to = std::copy(turn(i), turn(i) + (wrap - i), out.begin() + i * size + i);
    std::copy(turn(wrap), turn(wrap) + (size - wrap), to);
  }
  return out;
}

// The last history steps' signs of a circular row, newest in the low bits.
uint32_t HistoryBefore(const LiftCode& code, const SearchCode& search, const uint8_t* bits,
                       int64_t n, int64_t column) {
  const int steps = static_cast<int>(std::bit_width(search.history_mask)) / code.streams();
  uint32_t history = 0;
  for (int s = steps; s >= 1; --s)
    history = history << code.streams() | ColumnSigns(code, bits, n, (column - s) % n);
  return history & search.history_mask;
}

void ReconstructOne(const LiftCode& code, const SearchCode& search, const uint8_t* bits, int64_t n,
                    float* out) {
  uint32_t history = HistoryBefore(code, search, bits, n, n);
  for (int64_t t = 0; t < n; ++t) {
    float sum = 0;
    for (int c = 0; c < search.chunks; ++c)
      sum += search.older[static_cast<size_t>(c) * 32 + (history >> (5 * c) & 31)];
    uint32_t signs = bits[t] | search.derived_of[bits[t]] << code.stored;
    for (size_t k = 0; k < search.old_masks.size(); ++k) {
      signs ^= static_cast<uint32_t>(std::popcount(history & search.old_masks[k]) & 1)
               << (static_cast<size_t>(code.stored) + k);
    }
    out[t] = sum + search.newest[signs];
    history = (history << code.streams() | signs) & search.history_mask;
  }
}

using SearchFunction = void (*)(std::span<const SearchProblem>, std::span<SearchScratch>);

SearchFunction ChooseSearch(EncoderOptions::Isa isa) {
  using Isa = EncoderOptions::Isa;
#if defined(LIFT_HAVE_X86_ENCODERS)
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vpopcntdq");
  if (avx512 && (isa == Isa::kAuto || isa == Isa::kAvx512)) return BeamSearchAvx512;
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
  if (avx2 && (isa == Isa::kAuto || isa == Isa::kAvx2)) return BeamSearchAvx2;
#endif
  LIFT_CHECK(isa == Isa::kAuto || isa == Isa::kPortable);
  return BeamSearchPortable;
}

}  // namespace

SearchCode::SearchCode(const LiftCode& code, float gain, double spread)
    : stored(code.stored), streams(code.streams()), branches(1 << code.stored) {
  int steps = code.steps - 1;
  for (uint64_t mask : code.masks)
    steps = std::max(steps, static_cast<int>(std::bit_width(mask) - 1) / streams);
  const int bits = steps * streams;
  LIFT_CHECK(streams <= 5 && stored <= 4 && bits <= 32);
  history_mask = bits == 32 ? 0xFFFFFFFFu : (1u << bits) - 1;
  chunks = std::max(1, (bits + 4) / 5);
  // Of history bit `bit` in the column `later` steps after the one whose history it is.
  const auto tap = [&](int bit, int later) {
    const size_t index = static_cast<size_t>(bit + (later + 1) * streams);
    return index < code.taps.size() && bit < bits ? gain * code.taps[index] : 0.0f;
  };
  // Of the newest step's stream r, `later` steps after it.
  const auto newest_tap = [&](int r, int later) {
    const size_t index = static_cast<size_t>(r + later * streams);
    return index < code.taps.size() ? gain * code.taps[index] : 0.0f;
  };
  older.assign(static_cast<size_t>((kAhead + 1) * chunks) * 32, 0.0f);
  newest.assign(static_cast<size_t>(kAhead + 1) * 32, 0.0f);
  reach.push_back(0);
  for (int later = 0; later <= kAhead; ++later) {
    for (int v = 0; v < 32; ++v) {
      for (int c = 0; c < chunks; ++c) {
        float& sum = older[static_cast<size_t>((later * chunks + c) * 32 + v)];
        for (int j = 0; j < 5; ++j)
          sum += (v >> j & 1) ? tap(5 * c + j, later) : -tap(5 * c + j, later);
      }
      float& sum = newest[static_cast<size_t>(later * 32 + v)];
      for (int r = 0; r < streams; ++r)
        sum += (v >> r & 1) ? newest_tap(r, later) : -newest_tap(r, later);
    }
    float most = reach.back();
    for (int r = 0; r < streams; ++r) most += std::abs(newest_tap(r, later));
    if (later < kAhead) reach.push_back(most);
  }
  float power = 0;
  for (float t : code.taps) power += gain * t * gain * t;
  far = kFar * std::sqrt(power);
  limit = kLimit * std::sqrt(static_cast<float>(spread) * power * kTypicalError[stored]);
  over = kOver;
  derived_of.assign(16, 0);
  for (int k = 0; k < code.derived; ++k) {
    const uint64_t mask = code.masks[static_cast<size_t>(k)];
    old_masks.push_back(static_cast<uint32_t>(mask >> streams));
    for (int b = 0; b < branches; ++b) {
      derived_of[static_cast<size_t>(b)] |=
          static_cast<uint32_t>(std::popcount(mask & static_cast<uint64_t>(b)) & 1) << k;
    }
  }
}

int TraceBack(const SearchScratch& scratch, int64_t n, int beam, int lane, uint8_t* bits) {
  const int beam_bits = std::countr_zero(static_cast<unsigned>(beam));
  for (int64_t t = n - 1; t >= 0; --t) {
    const int index = scratch.trace[static_cast<size_t>(t * beam + lane)];
    bits[t] = static_cast<uint8_t>(index >> beam_bits);
    lane = index & (beam - 1);
  }
  return lane;
}

EncoderMetric::EncoderMetric(const std::vector<float>& given, int64_t n, int64_t live,
                             double damping, int64_t seam, Backend& backend, ThreadPool& pool,
                             int64_t start)
    : live_(live), start_(start) {
  LIFT_CHECK(n % kTileColumns == 0 && static_cast<int64_t>(given.size()) == n * n);
  LIFT_CHECK(start >= 0 && start < n && (start == 0 || live == n));
  factor_ = LdlFactor::Compute(TurnedUpper(given, n, start, n), n, live, damping, backend, pool);
  spread_ = NoiseSpread(factor_, live);
  // Padding columns are free, but with no weight at all every path would tie there and the
  // survivors that reach the next lap would be chosen by number, not by diversity: a little weight
  // keeps the beam alive through them.
  const float least = *std::min_element(factor_.diagonal.begin(), factor_.diagonal.begin() + live);
  std::fill(factor_.diagonal.begin() + live, factor_.diagonal.end(), 1e-3f * least);
  const int64_t region = seam + kSeamForced;
  if (seam == 0 || live < region + kTileColumns) return;
  seam_factor_ = LdlFactor::Compute(TurnedUpper(given, n, start, region), region, region, damping,
                                    backend, pool);
  // G = H_AA^-1 H_AB with H_AA = (I + U) D (I + U)^T, all columns b at once.
  const int64_t width = n - region;
  const float* u = seam_factor_.upper.data();
  std::vector<float>& g = seam_gain_;
  g.resize(static_cast<size_t>(region * width));
  for (int64_t a = 0; a < region; ++a) {
    for (int64_t b = 0; b < width; ++b)
      g[static_cast<size_t>(a * width + b)] =
          given[static_cast<size_t>((a + start) % n * n + (region + b + start) % n)];
  }
  const auto subtract = [&](int64_t to, int64_t from, float weight) {
    float* x = &g[static_cast<size_t>(to * width)];
    const float* y = &g[static_cast<size_t>(from * width)];
    for (int64_t b = 0; b < width; ++b) x[b] -= weight * y[b];
  };
  for (int64_t k = region - 1; k >= 0; --k) {
    for (int64_t j = k + 1; j < region; ++j) subtract(k, j, u[k * region + j]);
  }
  for (int64_t k = 0; k < region; ++k) {
    const float inverse = 1.0f / seam_factor_.diagonal[static_cast<size_t>(k)];
    for (int64_t b = 0; b < width; ++b) g[static_cast<size_t>(k * width + b)] *= inverse;
  }
  for (int64_t k = 0; k < region; ++k) {
    for (int64_t s = 0; s < k; ++s) subtract(k, s, u[s * region + k]);
  }
}

void EncoderMetric::AddSeamShift(const float* e, float* shift) const {
  const int64_t region = seam_n(), width = n() - region;
  for (int64_t a = 0; a < region; ++a) {
    const float* row = &seam_gain_[static_cast<size_t>(a * width)];
    float lane[16] = {};
    for (int64_t b = 0; b + 16 <= width; b += 16) {
      for (int j = 0; j < 16; ++j) lane[j] += row[b + j] * e[region + b + j];
    }
    float sum = 0;
    for (int64_t b = width / 16 * 16; b < width; ++b) sum += row[b] * e[region + b];
    for (float x : lane) sum += x;
    shift[a] += sum;
  }
}

void ReconstructRows(const LiftCode& code, float gain, const uint8_t* bits, int64_t rows, int64_t n,
                     ThreadPool& pool, float* out) {
  const SearchCode search(code, gain);
  pool.ParallelFor(rows, 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r)
      ReconstructOne(code, search, bits + r * n, n, out + r * n);
  });
}

namespace {

// From the metric's first column on.
void SearchAll(const LiftCode& code, float gain, const EncoderMetric& metric, const float* targets,
               int64_t rows, const EncoderOptions& options, ThreadPool& pool, uint8_t* bits) {
  const SearchCode search(code, gain, metric.spread());
  const SearchFunction run = ChooseSearch(options.isa);
  const int64_t n = metric.n(), region = metric.seam_n(), live = metric.live();
  // Rows that a thread searches together share each read of U; more rows would spill the scratch
  // from the cache.
  constexpr int64_t kRows = 8;
  struct Work {
    std::vector<SearchScratch> whole{static_cast<size_t>(kRows)}, seam{static_cast<size_t>(kRows)};
  };
  std::vector<Work> work(static_cast<size_t>(pool.threads()));
  const LdlFactor &factor = metric.factor(), &start = metric.seam_factor();
  pool.ParallelFor(rows, kRows, [&](int64_t begin, int64_t end, int thread) {
    Work& mine = work[static_cast<size_t>(thread)];
    const size_t count = static_cast<size_t>(end - begin);
    std::vector<SearchProblem> problems;
    for (int64_t r = begin; r < end; ++r) {
      problems.push_back({&search, n, targets + r * n, factor.diagonal.data(), factor.upper.data(),
                          n, nullptr, n, nullptr, options.beam, options.block, options.lag});
    }
    run(problems, std::span(mine.whole).first(count));
    for (size_t i = 0; i < count; ++i) {
      TraceBack(mine.whole[i], n, options.beam, mine.whole[i].end.best,
                bits + (begin + static_cast<int64_t>(i)) * n);
    }
    if (region == 0) return;
    // The first columns again: their real history is the row's end, of which every surviving path
    // is a candidate.
    std::vector<float> shifted(count * static_cast<size_t>(region)), error(static_cast<size_t>(n));
    for (size_t i = 0; i < count; ++i) {
      const int64_t r = begin + static_cast<int64_t>(i);
      float* shift = &shifted[i * static_cast<size_t>(region)];
      ReconstructOne(code, search, bits + r * n, n, error.data());
      for (int64_t t = 0; t < n; ++t)
        error[static_cast<size_t>(t)] =
            t < live ? targets[r * n + t] - error[static_cast<size_t>(t)] : 0.0f;
      std::copy_n(targets + r * n, region, shift);
      metric.AddSeamShift(error.data(), shift);
      problems[i] = {&search,
                     region,
                     shift,
                     start.diagonal.data(),
                     start.upper.data(),
                     region,
                     &mine.whole[i].end,
                     region - kSeamForced,
                     bits + r * n,
                     options.beam,
                     options.block,
                     options.lag};
    }
    run(problems, std::span(mine.seam).first(count));
    std::vector<uint8_t> head(static_cast<size_t>(region));
    for (size_t i = 0; i < count; ++i) {
      uint8_t* row = bits + (begin + static_cast<int64_t>(i)) * n;
      const int lane =
          TraceBack(mine.seam[i], region, options.beam, mine.seam[i].end.best, head.data());
      TraceBack(mine.whole[i], n, options.beam, lane, row);
      std::copy_n(head.data(), region - kSeamForced, row);
    }
  });
}

}  // namespace

void EncodeRows(const LiftCode& code, float gain, const EncoderMetric& metric, const float* targets,
                int64_t rows, const EncoderOptions& options, ThreadPool& pool, uint8_t* bits) {
  const int64_t n = metric.n(), start = metric.start();
  if (start == 0) return SearchAll(code, gain, metric, targets, rows, options, pool, bits);
  std::vector<float> turned(static_cast<size_t>(rows * n));
  for (int64_t r = 0; r < rows; ++r)
    std::rotate_copy(targets + r * n, targets + r * n + start, targets + (r + 1) * n,
                     turned.begin() + r * n);
  SearchAll(code, gain, metric, turned.data(), rows, options, pool, bits);
  for (int64_t r = 0; r < rows; ++r)
    std::rotate(bits + r * n, bits + (r + 1) * n - start, bits + (r + 1) * n);
}

}  // namespace lift
