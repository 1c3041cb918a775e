#include "calibration/router/drafts.h"

#include <algorithm>
#include <cmath>

namespace lift {
namespace {

constexpr double kLeastWrong = 1e-4;  // shares below this say nothing of a trend

std::span<const int32_t> DrawsOf(const PromptTrace& trace, size_t variant) {
  const auto count = static_cast<size_t>(trace.positions);
  return std::span(trace.draws).subspan(variant * count, count);
}

struct Pair {
  double log_kl = 0, log_wrong = 0;
};

}  // namespace

bool KnowsDraws(const TraceSet& traces) {
  return std::none_of(traces.prompts.begin(), traces.prompts.end(),
                      [](const PromptTrace& p) { return p.draws.empty(); });
}

double RightGuesses(const TraceSet& traces, size_t draft, size_t target) {
  double right = 0, positions = 0;
  for (const PromptTrace& p : traces.prompts) {
    const auto guesses = DrawsOf(p, draft), draws = DrawsOf(p, target);
    for (size_t i = 0; i < draws.size(); ++i) right += guesses[i] == draws[i];
    positions += static_cast<double>(p.positions);
  }
  return right / positions;
}

double ReadBits(const PromptTrace& trace, std::span<const double> bits, size_t target,
                const router::DraftPlan& plan) {
  if (plan.variant < 0) return bits[target] * static_cast<double>(trace.positions);
  const auto guesses = DrawsOf(trace, static_cast<size_t>(plan.variant));
  const auto draws = DrawsOf(trace, target);
  double sum = 0;
  for (size_t at = 0; at < draws.size();) {
    // The last token of an answer needs no guess.
    const size_t tokens = std::min(static_cast<size_t>(plan.tokens), draws.size() - at - 1);
    sum += static_cast<double>(tokens) * bits[static_cast<size_t>(plan.variant)] + bits[target];
    size_t right = 0;
    while (right < tokens && guesses[at + right] == draws[at + right]) ++right;
    at += right + 1;
  }
  return sum;
}

WrongGuesses FitWrongGuesses(const TraceSet& traces, std::span<const double> kl) {
  WrongGuesses fit;
  if (!KnowsDraws(traces)) return fit;
  std::vector<Pair> pairs;
  for (size_t target = 1; target < traces.variants.size(); ++target) {
    for (size_t draft = 0; draft < target; ++draft) {
      const double apart = kl[draft] - kl[target];
      const double wrong = 1 - RightGuesses(traces, draft, target);
      if (apart <= 0 || wrong < kLeastWrong) continue;
      pairs.push_back({std::log(apart), std::log(wrong)});
    }
  }
  if (pairs.size() < 3) return fit;
  double mx = 0, my = 0, xx = 0, xy = 0;
  for (const Pair& p : pairs) mx += p.log_kl, my += p.log_wrong;
  mx /= static_cast<double>(pairs.size());
  my /= static_cast<double>(pairs.size());
  for (const Pair& p : pairs) {
    xx += (p.log_kl - mx) * (p.log_kl - mx);
    xy += (p.log_kl - mx) * (p.log_wrong - my);
  }
  fit.power = xx > 0 ? std::clamp(xy / xx, 0.05, 2.0) : 1;
  fit.scale = std::exp(my - fit.power * mx);
  for (const Pair& p : pairs) {
    const double fitted = fit.scale * std::exp(fit.power * p.log_kl);
    fit.error += std::abs(std::min(1.0, fitted) - std::exp(p.log_wrong));
  }
  fit.error /= static_cast<double>(pairs.size());
  return fit;
}

}  // namespace lift
