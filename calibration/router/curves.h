// Does routing beat the best single precision at the same cost? Cost-quality curves of a router
// against what it must beat, with bootstrap intervals. Cost is plane bits per weight read per
// decoded token, quality KL to the finest variant per token. Measures follow RouteLLM
// (arXiv 2406.18665).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "calibration/router/trace.h"
#include "router/router.h"

namespace lift {

struct CurveOptions {
  std::vector<double> levels = {};  // mean bits to compare at; empty = three between the extremes
  router::Policy policy = {};       // for the table by kind of prompt
  int most_drafts = 0;              // tokens that decoding may guess ahead
  int resamples = 1000;             // of prompts, for the intervals
  uint64_t seed = 1;
};

struct CurvePoint {
  double bits = 0, kl = 0, agreement = 0;  // means over positions
};

// A way to choose, over its budgets.
struct Curve {
  std::string name;
  std::vector<CurvePoint> points = {};  // ascending bits
  double apgr = 0;                      // share of the quality gap recovered, averaged over cost
  double cpt50 = 0, cpt80 = 0;          // share of the cost gap at which 50 % (80 %) is recovered
};

// The router at one budget against others at exactly the mean cost it came to.
struct LevelResult {
  double budget = 0;  // as asked of the router
  CurvePoint router;
  double static_kl = 0;         // best single precision without guesses, interpolated
  double guessing_kl = 0;       // best single precision with the router's own plans of guesses
  double random_kl = 0;         // mixing the two extremes at random
  double oracle_kl = 0;         // knowing every answer's true KL
  double raising_kl = 0;        // a smaller budget, raised inside answers that turn out unsure
  double cascade_kl = 0;        // coarse first, then the finest for those that turn out unsure
  double gain = 0;              // 1 - router / static
  double gain_on_guessing = 0;  // 1 - router / guessing
  double gain_low = 0, gain_high = 0;  // 95 % interval
};

// What the policy makes of one kind of prompt, in the set's own words.
struct KindResult {
  std::string kind;
  int64_t prompts = 0;
  CurvePoint routed;
};

struct RouterEvaluation {
  int64_t prompts = 0, positions = 0;
  std::vector<Curve> curves;  // router, static, guessing (if allowed), random, oracle, cascade
  std::vector<LevelResult> levels;
  std::vector<KindResult> kinds;  // by name, then "" for all
  // How each variant decodes where guesses are allowed, and what that reads: plane bits per weight
  // and token.
  struct Drafted {
    std::string variant, draft;  // draft: empty = none
    int tokens = 0;
    double bits = 0, expected_bits = 0;
    double right = 0, expected_right = 0;  // share of guesses
  };
  std::vector<Drafted> drafted;
  double rank_correlation = 0;  // of predicted and true harm; 0 without a predictor
};

// `config`'s predictor is judged at one budget after another. INVALID_ARGUMENT without one, or for
// fewer than two fit variants.
absl::StatusOr<RouterEvaluation> EvaluateRouter(const TraceSet& traces,
                                                const router::RouterConfig& config,
                                                const CurveOptions& options);

// As the router sees the set's variants.
std::vector<router::VariantView> ViewsOf(const TraceSet& traces);

}  // namespace lift
