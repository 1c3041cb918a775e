#include "calibration/eval/logit_stats.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/check.h"
#include "router/exp.h"

namespace lift {
namespace {

constexpr size_t kLanes = 16;
constexpr size_t kBlock = 512;  // float sums stay this short before they go into a double

// exp(x) for x <= 0; 0 below -87, NaN for NaN.
[[gnu::always_inline]] inline float ExpOfNegative(float power) {
  const float value = router::ExpOfNegative(std::max(power, -87.0f));
  return power < -87.0f ? 0.0f : value;
}

// Sum over i < n of term(i), in lanes of float over blocks, blocks added in double.
template <typename Term>
[[gnu::always_inline]] inline double BlockedSum(size_t n, Term term) {
  double total = 0;
  size_t i = 0;
  while (n - i >= kLanes) {
    float lanes[kLanes] = {};
    const size_t end = std::min(n - (n - i) % kLanes, i + kBlock);
    for (; i < end; i += kLanes) {
      for (size_t j = 0; j < kLanes; ++j) lanes[j] += term(i + j);
    }
    for (float lane : lanes) total += static_cast<double>(lane);
  }
  for (; i < n; ++i) total += static_cast<double>(term(i));
  return total;
}

}  // namespace

LIFT_VECTOR_CLONES LogitStats ComputeLogitStats(std::span<const float> logits) {
  LIFT_CHECK(!logits.empty());
  const float* z = logits.data();
  const size_t n = logits.size();
  float tops[kLanes];
  std::fill(tops, tops + kLanes, z[0]);
  for (size_t i = 0; i + kLanes <= n; i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) tops[j] = z[i + j] > tops[j] ? z[i + j] : tops[j];
  }
  float peak = z[0];
  for (float top : tops) peak = std::max(peak, top);
  for (size_t i = n / kLanes * kLanes; i < n; ++i) peak = std::max(peak, z[i]);
  const auto best =
      std::isnan(peak) ? logits.begin() : std::find(logits.begin(), logits.end(), peak);
  const double sum = BlockedSum(
      logits.size(), [=](size_t i)
                         __attribute__((always_inline)) { return ExpOfNegative(z[i] - peak); });
  return {best - logits.begin(), static_cast<double>(peak) + std::log(sum)};
}

LIFT_VECTOR_CLONES double KlDivergence(std::span<const float> p, const LogitStats& p_stats,
                                       std::span<const float> q, const LogitStats& q_stats) {
  LIFT_CHECK(p.size() == q.size());
  const float *a = p.data(), *b = q.data(), peak = a[p_stats.best];
  // E_p[a - b] - (lse(a) - lse(b)): the difference of close logits is exact, which keeps small
  // divergences.
  const double weighted = BlockedSum(
      p.size(), [=](size_t i) __attribute__((always_inline)) {
        return ExpOfNegative(a[i] - peak) * (a[i] - b[i]);
      });
  const double mass = std::exp(p_stats.log_sum_exp - static_cast<double>(peak));
  return std::max(0.0, weighted / mass - (p_stats.log_sum_exp - q_stats.log_sum_exp));
}

}  // namespace lift
