#include "calibration/code_search.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <memory>
#include <random>

#include "calibration/codes.h"
#include "kernels/base/check.h"
#include "kernels/cpu/cpu_backend.h"

namespace lift {
namespace {

constexpr int64_t kColumns = 1024;
constexpr uint64_t kVerdictSeed = 0xC0DE5;  // samples of the verdict, never trained on
constexpr int kFarthestStep = 6;            // steps back that a mask of the search names

std::vector<float> Gaussian(size_t n, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& v : x) v = normal(random);
  return x;
}

const EncoderMetric& Flat(int64_t n, int64_t seam) {
  static thread_local std::unique_ptr<EncoderMetric> metric;
  if (metric == nullptr || metric->n() != n) {
    std::vector<float> identity(static_cast<size_t>(n * n), 0.0f);
    for (int64_t i = 0; i < n; ++i) identity[static_cast<size_t>(i * n + i)] = 1.0f;
    ThreadPool alone(1);
    const std::unique_ptr<Backend> backend = MakeCpuBackend(alone);
    metric = std::make_unique<EncoderMetric>(identity, n, n, 0.0, seam, *backend, alone);
  }
  return *metric;
}

double MeanSquare(const std::vector<float>& x) {
  double sum = 0;
  for (float v : x) sum += static_cast<double>(v) * v;
  return sum / static_cast<double>(x.size());
}

// Signs of the window of column t, +1 or -1, in tap order.
void WindowSigns(const LiftCode& code, const uint8_t* bits, int64_t n, int64_t t, double* signs) {
  const int streams = code.streams();
  for (int m = 0; m < code.steps; ++m) {
    const uint32_t s = ColumnSigns(code, bits, n, (t - m) % n);
    for (int r = 0; r < streams; ++r) signs[m * streams + r] = (s >> r & 1) != 0 ? 1 : -1;
  }
}

// Solves A x = b by Cholesky with a little ridge; A [n, n] is overwritten. False if it is not
// definite.
bool Solve(std::vector<double>& a, std::vector<double>& b, size_t n) {
  for (size_t i = 0; i < n; ++i) a[i * n + i] *= 1.001;
  for (size_t j = 0; j < n; ++j) {
    for (size_t i = j; i < n; ++i) {
      double s = a[i * n + j];
      for (size_t k = 0; k < j; ++k) s -= a[i * n + k] * a[j * n + k];
      if (i == j && !(s > 0)) return false;
      a[i * n + j] = i == j ? std::sqrt(s) : s / a[j * n + j];
    }
  }
  for (size_t i = 0; i < n; ++i) {
    for (size_t k = 0; k < i; ++k) b[i] -= a[i * n + k] * b[k];
    b[i] /= a[i * n + i];
  }
  for (size_t i = n; i-- > 0;) {
    for (size_t k = i + 1; k < n; ++k) b[i] -= a[k * n + i] * b[k];
    b[i] /= a[i * n + i];
  }
  return true;
}

class CodeMaker {
 public:
  CodeMaker(const CodeSearchOptions& options) : options_(options), random_(options.seed) {}

  LiftCode Random() {
    LiftCode code;
    code.stored = options_.stored;
    code.derived = options_.derived;
    code.steps = options_.steps;
    for (int k = 0; k < code.derived; ++k) code.masks.push_back(RandomMask(code));
    const int streams = code.streams();
    const double decay = 0.7 + 0.25 * Uniform();
    code.taps.resize(static_cast<size_t>(streams * code.steps));
    double energy = 0;
    for (size_t j = 0; j < code.taps.size(); ++j) {
      const double tap =
          normal_(random_) * std::pow(decay, static_cast<double>(j) / static_cast<double>(streams));
      code.taps[j] = static_cast<float>(tap);
      energy += tap * tap;
    }
    const double wanted = std::sqrt((1 - std::pow(2.0, -2.0 * code.stored)) / energy);
    for (float& tap : code.taps) tap *= static_cast<float>(wanted);
    return code;
  }

  // A neighbour: jittered taps and, half the time, one sign of one mask changed.
  LiftCode Mutate(LiftCode code) {
    const float width = static_cast<float>(0.02 + 0.1 * Uniform());
    for (float& tap : code.taps) tap += width * normal_(random_);
    if (code.derived > 0 && Uniform() < 0.5) {
      uint64_t& mask = code.masks[random_() % code.masks.size()];
      const uint64_t changed = mask ^ RandomBit(code);
      if (std::popcount(changed) >= 2 && NamesNewest(code, changed)) mask = changed;
    }
    return code;
  }

  double Uniform() { return static_cast<double>(random_() % 4096) / 4096; }

 private:
  uint64_t RandomBit(const LiftCode& code) {
    const uint64_t step = random_() % (kFarthestStep + 1);
    return uint64_t{1} << (step * static_cast<uint64_t>(code.streams()) +
                           random_() % static_cast<uint64_t>(code.stored));
  }
  static bool NamesNewest(const LiftCode& code, uint64_t mask) {
    return (mask & ((uint64_t{1} << code.stored) - 1)) != 0;
  }
  uint64_t RandomMask(const LiftCode& code) {
    uint64_t mask = uint64_t{1} << random_() % static_cast<uint64_t>(code.stored);
    const int degree = 3 + static_cast<int>(random_() % 4);
    for (int i = 0; i < 50 && std::popcount(mask) < degree; ++i) mask |= RandomBit(code);
    return mask;
  }

  const CodeSearchOptions& options_;
  std::mt19937_64 random_;
  std::normal_distribution<float> normal_;
};

}  // namespace

double EncodeStage(const LiftCode& code, double scale, int64_t rows, int64_t n,
                   const EncoderOptions& options, ThreadPool& pool, std::vector<float>& targets) {
  const float gain = static_cast<float>(scale * std::sqrt(MeanSquare(targets)));
  std::vector<uint8_t> bits(targets.size());
  EncodeRows(code, gain, Flat(n, options.seam), targets.data(), rows, options, pool, bits.data());
  std::vector<float> v(targets.size());
  ReconstructRows(code, gain, bits.data(), rows, n, pool, v.data());
  for (size_t i = 0; i < v.size(); ++i) targets[i] -= v[i];
  return MeanSquare(targets);
}

double GaussianError(const LiftCode& code, int64_t rows, const EncoderOptions& options,
                     uint64_t seed, ThreadPool& pool) {
  std::vector<float> x = Gaussian(static_cast<size_t>(rows * kColumns), seed);
  const double power = MeanSquare(x);
  return EncodeStage(code, 1 / std::sqrt(power), rows, kColumns, options, pool, x) / power;
}

double TrainTaps(LiftCode& code, int rounds, int64_t rows, const EncoderOptions& options,
                 uint64_t seed, ThreadPool& pool) {
  const size_t k = code.taps.size();
  double error = 0;
  for (int round = 0; round < rounds; ++round) {
    const std::vector<float> x =
        Gaussian(static_cast<size_t>(rows * kColumns), seed + static_cast<uint64_t>(round));
    std::vector<uint8_t> bits(x.size());
    EncodeRows(code, 1.0f, Flat(kColumns, options.seam), x.data(), rows, options, pool,
               bits.data());
    std::vector<double> a(k * k, 0.0), b(k, 0.0), signs(k);
    double left = 0;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t t = 0; t < kColumns; ++t) {
        WindowSigns(code, &bits[static_cast<size_t>(r * kColumns)], kColumns, t, signs.data());
        const double w = x[static_cast<size_t>(r * kColumns + t)];
        double v = 0;
        for (size_t i = 0; i < k; ++i) {
          v += signs[i] * code.taps[i];
          b[i] += signs[i] * w;
          for (size_t j = 0; j <= i; ++j) a[i * k + j] += signs[i] * signs[j];
        }
        left += (w - v) * (w - v);
      }
    }
    error = left / static_cast<double>(x.size());
    if (Solve(a, b, k)) {
      for (size_t i = 0; i < k; ++i) code.taps[i] = static_cast<float>(b[i]);
    }
  }
  return error;
}

LiftCode SearchCodes(const CodeSearchOptions& options, ThreadPool& pool,
                     const std::function<void(const LiftCode&, double)>& found) {
  const auto begin = std::chrono::steady_clock::now();
  const auto elapsed = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  EncoderOptions screen, verdict;
  screen.beam = options.beam;
  screen.lag = verdict.lag = 48;
  verdict.beam = options.final_beam;
  CodeMaker maker(options);
  const int64_t rows = 8;
  LiftCode best;
  double best_screen = 1e9, best_error = 1e9;
  uint64_t seed = options.seed * 1000003;
  if (options.start != nullptr) {
    best = *options.start;
    best_error = GaussianError(best, 48, verdict, kVerdictSeed, pool);
    LiftCode trained = best;
    best_screen = TrainTaps(trained, 4, rows, screen, seed, pool);
    found(best, best_error);
  }
  for (int64_t tried = 0; tried < options.candidates && elapsed() < options.seconds; ++tried) {
    seed += 100;
    const bool mutate = best_error < 1e9 && (options.start != nullptr || maker.Uniform() < 0.4);
    LiftCode code = mutate ? maker.Mutate(best) : maker.Random();
    if (TrainTaps(code, 3, rows / 2, screen, seed, pool) > best_screen * 1.25) continue;
    const double screened = TrainTaps(code, 5, rows, screen, seed + 10, pool);
    if (screened > best_screen * 1.015) continue;
    best_screen = std::min(best_screen, screened);
    TrainTaps(code, 5, 2 * rows, verdict, seed + 30, pool);
    const double error = GaussianError(code, 48, verdict, kVerdictSeed, pool);
    if (error >= best_error) continue;
    best_error = error;
    best = std::move(code);
    found(best, best_error);
  }
  return best;
}

}  // namespace lift
