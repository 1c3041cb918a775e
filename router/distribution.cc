// What the router takes from next-token distributions. A vocabulary is long, so the loops are
// written for compilers to make vectors of, a block at a time, with an exponential without
// branches. The same bits wherever float is IEEE.
#include <algorithm>
#include <cmath>
#include <limits>

#include "router/exp.h"
#include "router/router.h"

namespace lift::router {
namespace {

constexpr size_t kLanes = 8, kBlock = 512;
constexpr float kNoChance = -80;  // logarithm of a probability that no sum notices

// NaN is none.
LIFT_VECTOR_CLONES float Top(std::span<const float> logits) {
  float tops[kLanes];
  std::fill(tops, tops + kLanes, -std::numeric_limits<float>::infinity());
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (size_t l = 0; l < kLanes; ++l) tops[l] = logits[i + l] > tops[l] ? logits[i + l] : tops[l];
  }
  for (; i < logits.size(); ++i) tops[0] = logits[i] > tops[0] ? logits[i] : tops[0];
  return *std::max_element(tops, tops + kLanes);
}

// Logits less the top one, of a block. NaN has no chance either.
[[gnu::always_inline]] inline void Shift(const float* x, float top, size_t size, float* out) {
  for (size_t i = 0; i < size; ++i) {
    const float d = x[i] - top;
    out[i] = d > kNoChance ? d : kNoChance;
  }
  std::fill(out + size, out + kBlock, kNoChance);
}

[[gnu::always_inline]] inline void AddTo(double* lanes, const float* x) {
  for (size_t i = 0; i < kBlock; i += kLanes) {
    for (size_t l = 0; l < kLanes; ++l) lanes[l] += static_cast<double>(x[i + l]);
  }
}

// Of exp(f), exp(c) and exp(f) * (f - c), logits less their tops.
struct Sums {
  double fine = 0, coarse = 0, weighted = 0;
};

// coarse may be null: all of its shifted logits are 0 then.
LIFT_VECTOR_CLONES Sums SumOver(const float* fine, float fine_top, const float* coarse,
                                float coarse_top, size_t count) {
  double sums[3][kLanes] = {};
  float f[kBlock], c[kBlock] = {}, e[kBlock], w[kBlock];
  for (size_t at = 0; at < count; at += kBlock) {
    const size_t size = std::min(count - at, kBlock);
    Shift(fine + at, fine_top, size, f);
    if (coarse != nullptr) {
      Shift(coarse + at, coarse_top, size, c);
      for (size_t i = 0; i < kBlock; ++i) e[i] = ExpOfNegative(c[i]);
      AddTo(sums[1], e);
    }
    for (size_t i = 0; i < kBlock; ++i) e[i] = ExpOfNegative(f[i]);
    for (size_t i = 0; i < kBlock; ++i) w[i] = e[i] * (f[i] - c[i]);
    AddTo(sums[0], e);
    AddTo(sums[2], w);
  }
  Sums total;
  for (size_t l = 0; l < kLanes; ++l) {
    total.fine += sums[0][l], total.coarse += sums[1][l], total.weighted += sums[2][l];
  }
  return total;
}

}  // namespace

double KlOfLogits(std::span<const float> fine, std::span<const float> coarse) {
  const float fine_top = Top(fine), coarse_top = Top(coarse);
  if (!std::isfinite(fine_top) || !std::isfinite(coarse_top)) return -1;
  const Sums sums = SumOver(fine.data(), fine_top, coarse.data(), coarse_top,
                            std::min(fine.size(), coarse.size()));
  const double kl = sums.weighted / sums.fine - std::log(sums.fine) + std::log(sums.coarse);
  return std::max(0.0, kl);
}

PrefillSignals SignalsFromLogits(std::span<const float> last_logits, int64_t prompt_tokens) {
  PrefillSignals signals;
  signals.prompt_tokens = prompt_tokens;
  float first = -std::numeric_limits<float>::infinity(), second = first;
  for (const float x : last_logits) {
    if (!(x > second)) continue;  // NaN too
    second = std::min(x, first);
    first = std::max(x, first);
  }
  if (!std::isfinite(first)) return signals;
  const Sums sums = SumOver(last_logits.data(), first, nullptr, 0, last_logits.size());
  signals.available = true;
  signals.last_entropy = std::max(0.0, std::log(sums.fine) - sums.weighted / sums.fine);
  signals.last_margin = (1 - std::exp(static_cast<double>(second) - first)) / sums.fine;
  return signals;
}

}  // namespace lift::router
