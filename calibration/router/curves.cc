#include "calibration/router/curves.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <numeric>
#include <random>

#include "absl/strings/str_cat.h"
#include "calibration/router/drafts.h"
#include "calibration/router/fit.h"
#include "router/draft.h"
#include "router/features.h"
#include "router/predictor.h"

namespace lift {
namespace {

constexpr int kSweep = 17;             // budgets of a curve
constexpr int64_t kCascadeTokens = 8;  // decoded coarse before a cascade judges
constexpr double kLeastKl = 1e-9;      // nats
constexpr double kRaisedBits = 0.5;    // left to raising inside answers

// Per prompt and fit variant: summed KL and agreements; and what a cascade goes by.
struct Table {
  size_t variants = 0;
  std::vector<double> bits;        // [variants], of one pass
  std::vector<double> kl, agrees;  // [prompts, variants], sums over positions
  std::vector<double> read;        // [prompts, variants], bits over all positions, with guesses
  std::vector<double> positions;   // [prompts]
  std::vector<double> early_kl, early_agrees, early_positions, early_entropy;  // [prompts]
  size_t prompts() const { return positions.size(); }
};

// How often each prompt counts: 1, or what a bootstrap drew.
using Weights = std::vector<double>;

struct Totals {
  double positions = 0, bits = 0, kl = 0, agrees = 0;
  CurvePoint Mean() const { return {bits / positions, kl / positions, agrees / positions}; }
};

Table MakeTable(const TraceSet& traces, size_t first_fit,
                std::span<const router::DraftPlan> plans) {
  Table t;
  const size_t all = traces.variants.size();
  t.variants = all - first_fit;
  std::vector<double> bits;
  for (const TraceVariant& v : traces.variants) bits.push_back(v.bits_per_weight);
  t.bits.assign(bits.begin() + static_cast<std::ptrdiff_t>(first_fit), bits.end());
  for (const PromptTrace& p : traces.prompts) {
    const auto count = static_cast<double>(p.positions);
    t.positions.push_back(count);
    for (size_t v = first_fit; v < all; ++v) {
      t.kl.push_back(p.MeanKl(v) * count);
      t.agrees.push_back(p.Agreement(v) * count);
      t.read.push_back(ReadBits(p, bits, v, plans[v]));
    }
    const int64_t early = std::min(kCascadeTokens, p.positions);
    const auto at = static_cast<int64_t>(first_fit) * p.positions;
    t.early_positions.push_back(static_cast<double>(early));
    t.early_kl.push_back(std::accumulate(p.kl.begin() + at, p.kl.begin() + at + early, 0.0));
    t.early_agrees.push_back(
        std::accumulate(p.agrees.begin() + at, p.agrees.begin() + at + early, 0.0));
    t.early_entropy.push_back(
        std::accumulate(p.entropy.begin() + at, p.entropy.begin() + at + early, 0.0) /
        static_cast<double>(early));
  }
  return t;
}

enum class Guesses { kNone, kPlanned };

// One variant for each prompt.
CurvePoint PointOf(const Table& t, const std::vector<int>& choices, const Weights& weights,
                   Guesses guesses = Guesses::kPlanned) {
  Totals sum;
  for (size_t i = 0; i < t.prompts(); ++i) {
    const auto v = static_cast<size_t>(choices[i]);
    sum.positions += weights[i] * t.positions[i];
    sum.bits += weights[i] * (guesses == Guesses::kPlanned ? t.read[i * t.variants + v]
                                                           : t.positions[i] * t.bits[v]);
    sum.kl += weights[i] * t.kl[i * t.variants + v];
    sum.agrees += weights[i] * t.agrees[i * t.variants + v];
  }
  return sum.Mean();
}

std::vector<CurvePoint> StaticPoints(const Table& t, const Weights& weights, Guesses guesses) {
  std::vector<CurvePoint> points;
  for (size_t v = 0; v < t.variants; ++v) {
    points.push_back(
        PointOf(t, std::vector<int>(t.prompts(), static_cast<int>(v)), weights, guesses));
  }
  return points;
}

// Between two variants KL is interpolated by its logarithm: planes can be cut anywhere, and mixing
// the two at random would be worse. The last step ends at KL 0, where only mixing is left.
double Interpolate(std::span<const CurvePoint> points, double bits) {
  if (bits <= points.front().bits) return points.front().kl;
  for (size_t i = 1; i < points.size(); ++i) {
    const CurvePoint &a = points[i - 1], &b = points[i];
    if (bits > b.bits) continue;
    const double share = (bits - a.bits) / (b.bits - a.bits);
    if (b.kl <= kLeastKl) return a.kl * (1 - share);
    return std::exp(std::log(a.kl) * (1 - share) + std::log(b.kl) * share);
  }
  return points.back().kl;
}

double RandomKl(std::span<const CurvePoint> fixed, double bits) {
  const CurvePoint &low = fixed.front(), &high = fixed.back();
  const double share = std::clamp((bits - low.bits) / (high.bits - low.bits), 0.0, 1.0);
  return low.kl * (1 - share) + high.kl * share;
}

// The largest parameter in [low, high] whose cost is within `bits`; cost falls with it.
CurvePoint Tune(double low, double high, double bits, const std::function<CurvePoint(double)>& at) {
  CurvePoint best = at(high);
  for (int step = 0; step < 40; ++step) {
    const double middle = (low + high) / 2;
    const CurvePoint here = at(middle);
    if (here.bits <= bits) {
      high = middle, best = here;
    } else {
      low = middle;
    }
  }
  return best;
}

// Every prompt where its own true KL plus price times bits is least.
CurvePoint Oracle(const Table& t, const Weights& weights, double bits) {
  return Tune(-25, 10, bits, [&](double log_price) {
    std::vector<int> choices(t.prompts());
    for (size_t i = 0; i < t.prompts(); ++i) {
      double least = 0;
      for (size_t v = 0; v < t.variants; ++v) {
        const double cost =
            (t.kl[i * t.variants + v] + std::exp(log_price) * t.read[i * t.variants + v]) /
            t.positions[i];
        if (v == 0 || cost < least) least = cost, choices[i] = static_cast<int>(v);
      }
    }
    return PointOf(t, choices, weights);
  });
}

// The first tokens at the coarsest variant; where their mean entropy reaches a threshold, the rest
// at the finest.
CurvePoint Cascade(const Table& t, const Weights& weights, double bits) {
  return Tune(0, 20, bits, [&](double threshold) {
    Totals sum;
    for (size_t i = 0; i < t.prompts(); ++i) {
      const bool rises = t.early_entropy[i] >= threshold;
      const double early = rises ? t.early_positions[i] : t.positions[i];
      sum.positions += weights[i] * t.positions[i];
      sum.bits += weights[i] * (early * t.bits.front() + (t.positions[i] - early) * t.bits.back());
      sum.kl += weights[i] * (rises ? t.early_kl[i] : t.kl[i * t.variants]);
      sum.agrees += weights[i] * (rises ? t.early_agrees[i] + t.positions[i] - t.early_positions[i]
                                        : t.agrees[i * t.variants]);
    }
    return sum.Mean();
  });
}

// Escalation as lift-server --escalate does it, from each prompt's choice on. Entropies are those
// of the variant that computed the token, its state's earlier tokens at that variant too.
CurvePoint Raising(const Table& t, const TraceSet& traces, size_t first_fit,
                   const std::vector<int>& choices, const std::vector<router::VariantView>& views,
                   double entropy) {
  Totals sum;
  for (size_t i = 0; i < t.prompts(); ++i) {
    const PromptTrace& p = traces.prompts[i];
    router::Escalation escalation(entropy);
    int variant = choices[i] + static_cast<int>(first_fit);
    for (int64_t at = 0; at < p.positions; ++at) {
      const auto cell = static_cast<size_t>(variant * p.positions + at);
      sum.positions += 1;
      sum.bits += views[static_cast<size_t>(variant)].bits_per_weight;
      sum.kl += static_cast<double>(p.kl[cell]);
      sum.agrees += p.agrees[cell];
      variant = escalation.NextByEntropy(variant, static_cast<double>(p.entropy[cell]), {}, views);
    }
  }
  return sum.Mean();
}

class Evaluator {
 public:
  Evaluator(const TraceSet& traces, const router::RouterConfig& config, const CurveOptions& options,
            size_t first_fit)
      : traces_(traces),
        config_(config),
        options_(options),
        first_fit_(first_fit),
        plans_(PlansOf(traces, config, options)),
        table_(MakeTable(traces, first_fit, plans_)),
        once_(table_.prompts(), 1.0) {}

  absl::StatusOr<RouterEvaluation> Run() {
    RouterEvaluation out;
    out.prompts = static_cast<int64_t>(table_.prompts());
    for (const PromptTrace& p : traces_.prompts) out.positions += p.positions;
    AddCurves(out);
    AddKinds(out);
    AddDrafted(out);
    for (const double level : Levels()) out.levels.push_back(Level(level));
    std::vector<double> predicted;
    for (const PromptTrace& p : traces_.prompts) {
      predicted.push_back(config_.predictor->Harm(router::Features(p.text, p.prefill)));
    }
    out.rank_correlation = RankCorrelation(predicted, TrueHarm(traces_));
    return out;
  }

 private:
  static std::vector<router::DraftPlan> PlansOf(const TraceSet& traces,
                                                const router::RouterConfig& config,
                                                const CurveOptions& options) {
    router::RouterConfig guessing = config;
    guessing.most_drafts = options.most_drafts;
    return router::PlanDrafts(ViewsOf(traces), guessing);
  }

  void AddDrafted(RouterEvaluation& out) const {
    if (options_.most_drafts == 0) return;
    const std::vector<CurvePoint> points = StaticPoints(table_, once_, Guesses::kPlanned);
    for (size_t v = first_fit_; v < plans_.size(); ++v) {
      const router::DraftPlan& plan = plans_[v];
      auto& row = out.drafted.emplace_back();
      row.variant = traces_.variants[v].name;
      row.bits = points[v - first_fit_].bits;
      row.expected_bits = plan.bits;
      if (plan.variant < 0) continue;
      const TraceVariant& draft = traces_.variants[static_cast<size_t>(plan.variant)];
      row.draft = draft.name;
      row.tokens = plan.tokens;
      row.right = RightGuesses(traces_, static_cast<size_t>(plan.variant), v);
      row.expected_right = config_.predictor->RightGuesses(draft.bits_per_weight,
                                                           traces_.variants[v].bits_per_weight);
    }
  }

  double Between(double share) const {
    return table_.bits.front() * (1 - share) + table_.bits.back() * share;
  }

  std::vector<double> Levels() const {
    if (!options_.levels.empty()) return options_.levels;
    return {Between(0.2), Between(0.35), Between(0.5)};
  }

  // What the router itself would choose; indices into the table's variants.
  std::vector<int> Choices(const router::Policy& policy) const {
    router::RouterConfig config = config_;
    config.policy = policy;
    config.most_drafts = options_.most_drafts;
    const std::vector<router::VariantView> views = ViewsOf(traces_);
    std::vector<int> choices;
    for (const PromptTrace& p : traces_.prompts) {
      const auto decision = router::Route(p.text, p.prefill, {}, views, {}, config);
      LIFT_CHECK(decision.ok());
      choices.push_back(decision->variant - static_cast<int>(first_fit_));
    }
    return choices;
  }

  static router::Policy Budget(double bits) {
    return {.kind = router::Policy::Kind::kBudget, .budget_bits = bits};
  }

  void AddKinds(RouterEvaluation& out) const {
    const std::vector<int> choices = Choices(options_.policy);
    std::map<std::string, Weights> kinds;
    for (size_t i = 0; i < table_.prompts(); ++i) {
      Weights& weights = kinds[traces_.prompts[i].kind];
      weights.resize(table_.prompts());
      weights[i] = 1;
    }
    const auto add = [&](const std::string& kind, const Weights& weights) {
      const double prompts = std::accumulate(weights.begin(), weights.end(), 0.0);
      out.kinds.push_back({kind, static_cast<int64_t>(prompts), PointOf(table_, choices, weights)});
    };
    for (const auto& [kind, weights] : kinds) {
      if (!kind.empty()) add(kind, weights);
    }
    add("", once_);
  }

  void AddCurves(RouterEvaluation& out) const {
    const std::vector<CurvePoint> fixed = StaticPoints(table_, once_, Guesses::kNone);
    Curve router{"router"}, single{"static"}, guessing{"guessing"}, random{"random"},
        oracle{"oracle"}, cascade{"cascade"};
    single.points = fixed;
    guessing.points = StaticPoints(table_, once_, Guesses::kPlanned);
    for (int i = 0; i < kSweep; ++i) {
      const double bits = Between(static_cast<double>(i) / (kSweep - 1));
      router.points.push_back(PointOf(table_, Choices(Budget(bits)), once_));
      random.points.push_back({bits, RandomKl(fixed, bits), 0});
      oracle.points.push_back(Oracle(table_, once_, bits));
      cascade.points.push_back(Cascade(table_, once_, bits));
    }
    for (Curve* curve : {&router, &single, &guessing, &random, &oracle, &cascade}) {
      if (curve == &guessing && options_.most_drafts == 0) continue;
      std::stable_sort(curve->points.begin(), curve->points.end(),
                       [](const CurvePoint& a, const CurvePoint& b) { return a.bits < b.bits; });
      const bool mixed = curve == &random;  // linear in cost, not in its logarithm
      Summarize(*curve, fixed.front().kl, [&](double bits) {
        return mixed ? RandomKl(fixed, bits) : Interpolate(curve->points, bits);
      });
      out.curves.push_back(std::move(*curve));
    }
  }

  // Performance gap recovered at shares of the cost gap.
  void Summarize(Curve& curve, double worst, const std::function<double(double)>& kl_at) const {
    constexpr int kSteps = 100;
    curve.cpt50 = curve.cpt80 = 1;
    double sum = 0;
    for (int i = kSteps; i >= 0; --i) {
      const double share = static_cast<double>(i) / kSteps;
      const double recovered = 1 - kl_at(Between(share)) / worst;
      sum += recovered * (i == 0 || i == kSteps ? 0.5 : 1) / kSteps;
      if (recovered >= 0.5) curve.cpt50 = share;
      if (recovered >= 0.8) curve.cpt80 = share;
    }
    curve.apgr = sum;
  }

  LevelResult Level(double budget) const {
    LevelResult level;
    level.budget = budget;
    const std::vector<int> choices = Choices(Budget(budget));
    level.router = PointOf(table_, choices, once_);
    const std::vector<CurvePoint> fixed = StaticPoints(table_, once_, Guesses::kNone);
    level.static_kl = Interpolate(fixed, level.router.bits);
    level.guessing_kl =
        Interpolate(StaticPoints(table_, once_, Guesses::kPlanned), level.router.bits);
    level.random_kl = RandomKl(fixed, level.router.bits);
    level.oracle_kl = Oracle(table_, once_, level.router.bits).kl;
    level.cascade_kl = Cascade(table_, once_, level.router.bits).kl;
    const std::vector<int> lower = Choices(Budget(level.router.bits - kRaisedBits));
    const std::vector<router::VariantView> views = ViewsOf(traces_);
    level.raising_kl = Tune(0.01, 12, level.router.bits, [&](double entropy) {
                         return Raising(table_, traces_, first_fit_, lower, views, entropy);
                       }).kl;
    level.gain = 1 - level.router.kl / level.static_kl;
    level.gain_on_guessing =
        level.guessing_kl > kLeastKl ? 1 - level.router.kl / level.guessing_kl : 0;
    std::mt19937_64 random(options_.seed);
    std::vector<double> gains;
    for (int r = 0; r < options_.resamples; ++r) {
      Weights weights(table_.prompts());
      for (size_t i = 0; i < weights.size(); ++i) weights[random() % weights.size()] += 1;
      const CurvePoint point = PointOf(table_, choices, weights);
      gains.push_back(
          1 - point.kl / Interpolate(StaticPoints(table_, weights, Guesses::kNone), point.bits));
    }
    std::sort(gains.begin(), gains.end());
    if (!gains.empty()) {
      level.gain_low = gains[gains.size() * 25 / 1000];
      level.gain_high = gains[gains.size() * 975 / 1000];
    }
    return level;
  }

  const TraceSet& traces_;
  const router::RouterConfig& config_;
  const CurveOptions& options_;
  size_t first_fit_;
  std::vector<router::DraftPlan> plans_;  // of all variants
  Table table_;
  Weights once_;
};

}  // namespace

std::vector<router::VariantView> ViewsOf(const TraceSet& traces) {
  std::vector<router::VariantView> views;
  for (const TraceVariant& v : traces.variants) {
    views.push_back({v.name, v.lambda, v.bits_per_weight, v.kl, v.plane_bytes});
  }
  return views;
}

absl::StatusOr<RouterEvaluation> EvaluateRouter(const TraceSet& traces,
                                                const router::RouterConfig& config,
                                                const CurveOptions& options) {
  if (config.predictor == nullptr) {
    return absl::InvalidArgumentError(
        "the file has no trained router; train one with lift-calibrate router");
  }
  const size_t first_fit = router::FirstFitVariant(ViewsOf(traces));
  if (first_fit + 2 > traces.variants.size()) {
    return absl::InvalidArgumentError("fewer than two variants are fit for AUTO");
  }
  if (options.most_drafts > 0 && !KnowsDraws(traces)) {
    return absl::InvalidArgumentError(
        "the traces do not say what each variant draws; measure them again to judge guesses");
  }
  if (options.most_drafts > 0 && !config.predictor->KnowsGuesses()) {
    return absl::InvalidArgumentError(
        "the router does not know how often guesses are right; train it again");
  }
  if (traces.prompts.size() < 2) return absl::InvalidArgumentError("there are too few prompts");
  return Evaluator(traces, config, options, first_fit).Run();
}

}  // namespace lift
