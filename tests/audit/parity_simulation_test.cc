// How often the parity test finds a planted bias, and how often it cries wolf: logs of 500
// decisions that the router itself makes for tenants of unequal difficulty, under load, with floors
// and with precision that rises inside answers. LIFT_PARITY_REPLICATES=N repeats each case N times
// (100 if unset); seeds are fixed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "router/router.h"
#include "server/audit/parity.h"

namespace lift {
namespace {

const std::vector<router::VariantView> kVariants = {
    {"q2.0", 0.250, 2, 0.9520, 33}, {"q2.5", 0.330, 2.5, 0.5179, 41},
    {"q3.0", 0.396, 3, 0.2746, 49}, {"q4.0", 0.500, 4, 0.0999, 65},
    {"q6.0", 0.646, 6, 0.0152, 97}, {"q8.0", 0.750, 8, 0.0015, 129},
};

// kCoarser: some decisions go one variant down. kLoad: all are made as if the queue were full, and
// say so in their reason.
enum class Bias { kNone, kCoarser, kLoad };

struct Case {
  const char* name;
  int tenants;
  Bias bias;
  double amount = 0;    // kCoarser: of the first tenant's lambda; kLoad: of the queue
  bool unequal = true;  // tenants ask questions of unequal difficulty
};

class Simulation {
 public:
  explicit Simulation(uint64_t seed) : rng_(seed) {}

  std::vector<RoutingDecision> Log(const Case& c, int rows) {
    std::vector<RoutingDecision> log;
    for (int i = 0; i < rows; ++i) log.push_back(Decide(c, i % c.tenants));
    if (c.bias == Bias::kCoarser) Coarsen(log, c.amount);
    for (RoutingDecision& d : log) Serve(d);
    return log;
  }

 private:
  double Uniform() { return std::uniform_real_distribution<>(0, 1)(rng_); }

  // The hardest tenant asks for three times as long answers to reason about as the easiest.
  router::TextFeatures Prompt(double hardness) {
    router::TextFeatures f;
    f.words = static_cast<int64_t>(std::lognormal_distribution<>(2 + hardness, 1)(rng_)) + 1;
    f.bytes = f.words * 6;
    f.sentences = 1 + f.words / 15;
    f.lines = 1 + f.words / 30;
    f.mean_word_length = 4 + 2 * Uniform();
    f.distinct_word_ratio = 0.5 + 0.5 * Uniform();
    f.non_ascii_ratio = Uniform() < 0.2 ? Uniform() : 0;
    f.has_code = Uniform() < 0.1 * (1 + hardness);
    f.has_math = Uniform() < 0.1 * (1 + hardness);
    f.reasoning_words = std::poisson_distribution<int>(0.3 * (1 + hardness))(rng_);
    return f;
  }

  RoutingDecision Decide(const Case& c, int tenant) {
    const double hardness = c.unequal ? 1.5 * tenant / std::max(1, c.tenants - 1) : 0.5;
    const router::PrefillSignals prefill{true, 30, 2 + 2 * Uniform(), 3 + 3 * Uniform(), Uniform()};
    router::PrecisionRequest request;
    if (Uniform() < 0.1) request.min_lambda = 0.5;
    if (Uniform() < 0.05) request = {.mode = router::Mode::kPinned, .variant = "q2.0"};
    const router::SystemState state{.queue_pressure = Uniform() < 0.8 ? 0 : Uniform()};
    const bool as_if_busy = c.bias == Bias::kLoad && tenant == 0;
    const auto decision = router::Route(
        Prompt(hardness), prefill, request, kVariants,
        {.queue_pressure = std::max(state.queue_pressure, as_if_busy ? c.amount : 0)});
    RoutingDecision d;
    d.tenant = "tenant-" + std::to_string(tenant);
    d.pinned = request.mode == router::Mode::kPinned;
    d.min_lambda = request.min_lambda;
    d.queue_pressure = state.queue_pressure;
    d.score = decision->score;
    d.reason = router::ReasonName(decision->reason);
    SetVariant(d, decision->variant);
    return d;
  }

  static void SetVariant(RoutingDecision& d, int variant) {
    const auto& view = kVariants[static_cast<size_t>(variant)];
    d.variant = view.name, d.lambda = d.served_lambda = view.lambda;
  }
  static int VariantOf(const RoutingDecision& d) {
    int at = 0;
    while (kVariants[static_cast<size_t>(at)].name != d.variant) ++at;
    return at;
  }

  // So many of the first tenant's decisions go one variant down that his mean falls by `relative`.
  void Coarsen(std::vector<RoutingDecision>& log, double relative) {
    double total = 0, steps = 0;
    const auto fit = [](const RoutingDecision& d) { return d.tenant == "tenant-0" && !d.pinned; };
    for (const RoutingDecision& d : log) {
      const int at = VariantOf(d);
      if (!fit(d)) continue;
      total += d.lambda;
      if (at > 0) steps += d.lambda - kVariants[static_cast<size_t>(at - 1)].lambda;
    }
    for (RoutingDecision& d : log) {
      const int at = VariantOf(d);
      if (fit(d) && at > 0 && Uniform() < relative * total / steps) SetVariant(d, at - 1);
    }
  }

  // One answer in five rises by a variant somewhere inside.
  void Serve(RoutingDecision& d) {
    const int at = VariantOf(d);
    if (d.pinned || at + 1 == static_cast<int>(kVariants.size()) || Uniform() > 0.2) return;
    d.served_lambda += Uniform() * (kVariants[static_cast<size_t>(at + 1)].lambda - d.lambda);
  }

  std::mt19937_64 rng_;
};

// The test that looks at means alone.
bool NaiveAlarm(const std::vector<ParityRow>& rows) {
  double sum[2] = {}, squares[2] = {}, n[2] = {};
  for (const ParityRow& row : rows) {
    const int g = row.group == "tenant-0" ? 0 : 1;
    sum[g] += row.lambda, squares[g] += row.lambda * row.lambda, n[g] += 1;
  }
  double variance = 0;
  for (int g : {0, 1}) variance += (squares[g] / n[g] - std::pow(sum[g] / n[g], 2)) / n[g];
  return std::abs(sum[0] / n[0] - sum[1] / n[1]) > 2.576 * std::sqrt(variance);
}

struct Rates {
  double found = 0;  // the first tenant is called worse
  double alarm = 0;  // anybody is called worse or better
  double naive = 0;  // alarms of means alone
  double effect = 0, equal = 0;
};

// by_reason: rows are only compared with those of the same reason.
Rates Simulate(const Case& c, int rows, bool by_reason = false) {
  const char* asked = std::getenv("LIFT_PARITY_REPLICATES");
  const int replicates = asked == nullptr ? 100 : std::max(1, std::atoi(asked));
  Rates rates;
  for (int k = 0; k < replicates; ++k) {
    Simulation simulation(1000003ULL * static_cast<uint64_t>(k) + static_cast<uint64_t>(c.tenants));
    std::vector<ParityRow> compared;
    for (const RoutingDecision& d : simulation.Log(c, rows)) {
      ParityRow row;
      if (!ToParityRow(d, ParityBy::kTenant, true, row)) continue;
      if (by_reason) row.stratum += d.reason;
      compared.push_back(row);
    }
    rates.naive += NaiveAlarm(compared);
    const ParityReport report = CompareGroups(std::move(compared), {});
    rates.found += report.groups[0].verdict == ParityVerdict::kWorse;
    rates.alarm += !report.fair();
    rates.effect += report.groups[0].relative();
    for (const ParityGroup& group : report.groups) {
      rates.equal += (group.verdict == ParityVerdict::kEqual) / static_cast<double>(c.tenants);
    }
  }
  for (double* rate : {&rates.found, &rates.alarm, &rates.naive, &rates.effect, &rates.equal}) {
    *rate /= replicates;
  }
  std::printf(
      "%-46s n %4d x%5d: found %.3f, any alarm %.4f, called equal %.3f, effect %+.4f; means alone: "
      "alarm %.3f\n",
      c.name, rows, replicates, rates.found, rates.alarm, rates.equal, rates.effect, rates.naive);
  std::fflush(stdout);
  return rates;
}

constexpr int kRows = 500;

TEST(ParitySimulation, FindsABiasOfFivePercent) {
  EXPECT_GE(Simulate({"5 % coarser, 2 tenants", 2, Bias::kCoarser, 0.05}, kRows).found, 0.95);
  EXPECT_GE(Simulate({"5 % coarser, 2 tenants alike", 2, Bias::kCoarser, 0.05, false}, kRows).found,
            0.95);
  EXPECT_GE(Simulate({"5 % coarser, 5 tenants of 100", 5, Bias::kCoarser, 0.05}, kRows).found,
            0.75);
  Simulate({"2 % coarser, 2 tenants", 2, Bias::kCoarser, 0.02}, kRows);
}

// A reason is a part of the decision, not what it was made of: to compare only like reasons would
// hide a tenant who is always told that the server is busy.
TEST(ParitySimulation, FindsABiasThatCallsItselfLoad) {
  const Case c{"as if 65 % of the queue were full", 2, Bias::kLoad, 0.65, false};
  EXPECT_GE(Simulate(c, kRows).found, 0.95);
  EXPECT_LE(Simulate(c, kRows, /*by_reason=*/true).found, 0.5);
}

TEST(ParitySimulation, StaysQuietWithoutOne) {
  // One percent by construction; 100 trials show more than 5 with a chance of 0.0005.
  EXPECT_LE(Simulate({"fair, 2 tenants of unequal difficulty", 2, Bias::kNone}, kRows).alarm, 0.05);
  EXPECT_LE(Simulate({"fair, 2 tenants alike", 2, Bias::kNone, 0, false}, kRows).alarm, 0.05);
  EXPECT_LE(Simulate({"fair, 5 tenants of unequal difficulty", 5, Bias::kNone}, kRows).alarm, 0.05);
  EXPECT_LE(Simulate({"fair, 20 tenants of unequal difficulty", 20, Bias::kNone}, kRows).alarm,
            0.03);
}

}  // namespace
}  // namespace lift
