// Row statistics of logits: plain functions over spans, vectorized by the compiler, summed in
// double.
#pragma once

#include <cstdint>
#include <span>

namespace lift {

struct LogitStats {
  int64_t best = 0;  // lowest index of the largest logit
  double log_sum_exp = 0;
};

LogitStats ComputeLogitStats(std::span<const float> logits);

// KL(p || q) in nats of the softmax distributions of two rows of equal length; at least 0.
double KlDivergence(std::span<const float> p, const LogitStats& p_stats, std::span<const float> q,
                    const LogitStats& q_stats);

}  // namespace lift
