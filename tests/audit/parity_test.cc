// The parts of the parity test against plain computations, and what it says of logs whose truth is
// known.
#include "server/audit/parity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "server/audit/parity_strata.h"

namespace lift {
namespace {

using testing::DoubleNear;
using testing::ElementsAre;
using testing::Pointwise;

TEST(MonotoneFit, IsTheNearestNonDecreasingOne) {
  EXPECT_THAT(MonotoneFit(std::vector{1., 2., 3.}, std::vector{1., 3., 2.}),
              ElementsAre(1, 2.5, 2.5));
  EXPECT_THAT(MonotoneFit(std::vector{1., 1., 2.}, std::vector{4., 0., 3.}), ElementsAre(2, 2, 3));
  EXPECT_THAT(MonotoneFit(std::vector{1., 2., 2.}, std::vector{3., 0., 2.}),
              Pointwise(DoubleNear(1e-12), {5. / 3, 5. / 3, 5. / 3}));
  EXPECT_TRUE(MonotoneFit({}, {}).empty());
}

// By the minimax formula: fit(i) = max over a <= i of min over b >= i of the mean of y[a..b].
TEST(MonotoneFit, AgreesWithTheMinimaxFormula) {
  std::mt19937 rng(1);
  for (int round = 0; round < 50; ++round) {
    std::vector<double> x, y;
    for (int i = 0; i < 20; ++i) x.push_back(i), y.push_back(static_cast<double>(rng() % 10));
    const auto mean = [&](size_t a, size_t b) {
      double sum = 0;
      for (size_t i = a; i <= b; ++i) sum += y[i];
      return sum / static_cast<double>(b - a + 1);
    };
    const auto fit = MonotoneFit(x, y);
    for (size_t i = 0; i < y.size(); ++i) {
      double best = -1;
      for (size_t a = 0; a <= i; ++a) {
        double least = 100;
        for (size_t b = i; b < y.size(); ++b) least = std::min(least, mean(a, b));
        best = std::max(best, least);
      }
      ASSERT_NEAR(fit[i], best, 1e-9);
    }
  }
}

TEST(Holm, IsTheStepDownProcedure) {
  EXPECT_THAT(HolmAdjusted(std::vector{0.01, 0.04, 0.03}),
              Pointwise(DoubleNear(1e-12), {0.03, 0.06, 0.06}));
  EXPECT_THAT(HolmAdjusted(std::vector{0.9, 0.8}), ElementsAre(1, 1));
}

ParityCells OneCell(const std::vector<std::pair<int, double>>& points) {
  ParityCells cells;
  for (const auto& [group, residual] : points) cells.points.push_back({group, 0.5, residual});
  cells.ends = {points.size()};
  return cells;
}

// All 70 ways to label eight rows, by hand.
TEST(Permutations, AgreeWithCountingThemAll) {
  const std::vector<double> values = {0.1, 0.3, 0.2, 0.9, 0.8, 1.0, 0.7, 0.35};
  std::vector<std::pair<int, double>> points;
  for (size_t i = 0; i < values.size(); ++i) points.emplace_back(i < 4 ? 0 : 1, values[i]);
  double mean = 0, own = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    mean += values[i] / 8;
    if (i < 4) own += values[i];
  }
  int as_far = 0, all = 0;
  for (unsigned mask = 0; mask < 256; ++mask) {
    if (__builtin_popcount(mask) != 4) continue;
    double sum = 0;
    for (unsigned i = 0; i < 8; ++i) sum += (mask >> i & 1) != 0 ? values[i] : 0;
    ++all;
    as_far += std::abs(sum - 4 * mean) >= std::abs(own - 4 * mean) - 1e-12;
  }
  const ParityCells cells = OneCell(points);
  const auto effects = MeasureEffects(cells, 2);
  EXPECT_NEAR(effects[0].sum / effects[0].weight, own / 4 - (8 * mean - own) / 4, 1e-12);
  const auto p = PermutationTest(cells, effects, 40000);
  EXPECT_NEAR(p[0], static_cast<double>(as_far) / all, 0.01);
  EXPECT_EQ(p[0], p[1]);  // of two groups one is the other's mirror
  EXPECT_NEAR(PermutationTest(cells, effects, 0)[0], p[0], 0.05);
}

ParityRow Row(const std::string& group, double score, double lambda,
              const std::string& stratum = "s") {
  return {.group = group, .stratum = stratum, .variant = "v", .score = score, .lambda = lambda};
}
double Step(double score) { return score < 0.3 ? 0.4 : score < 0.6 ? 0.5 : 0.75; }

TEST(CompareGroups, HarderQuestionsAreNoDifference) {
  std::mt19937 rng(2);
  std::vector<ParityRow> rows;
  for (int i = 0; i < 400; ++i) {
    const double u = static_cast<double>(rng() % 1000) / 1000;
    rows.push_back(Row("easy", u * u, Step(u * u)));
    rows.push_back(Row("hard", std::sqrt(u), Step(std::sqrt(u))));
  }
  const ParityReport report = CompareGroups(rows, {});
  EXPECT_LT(report.groups[0].mean_lambda, report.groups[1].mean_lambda - 0.1);
  for (const ParityGroup& group : report.groups) {
    EXPECT_NEAR(group.difference, 0, 1e-12);
    EXPECT_EQ(group.verdict, ParityVerdict::kEqual);
  }
  EXPECT_TRUE(report.fair());
}

TEST(CompareGroups, WhoIsServedWorseIsNamed) {
  std::mt19937 rng(3);
  std::vector<ParityRow> rows;
  for (int i = 0; i < 600; ++i) {
    const double score = static_cast<double>(rng() % 1000) / 1000;
    const std::string group = std::string(1, static_cast<char>('a' + i % 3));
    rows.push_back(Row(group, score, Step(score) * (group == "b" ? 0.95 : 1)));
  }
  const ParityReport report = CompareGroups(rows, {});
  EXPECT_FALSE(report.fair());
  EXPECT_EQ(report.groups[1].verdict, ParityVerdict::kWorse);
  EXPECT_NEAR(report.groups[1].relative(), -0.05, 0.015);
  EXPECT_EQ(report.groups[0].verdict, ParityVerdict::kBetter);  // than a mean that b lowers
}

// Floors, residency and load lawfully change precision; they are circumstances, not differences.
TEST(CompareGroups, CircumstancesAreComparedWithLikeOnes) {
  std::mt19937 rng(4);
  std::vector<ParityRow> rows;
  for (int i = 0; i < 500; ++i) {
    const double score = static_cast<double>(rng() % 1000) / 1000;
    const bool floor = rng() % 10 < 7;
    rows.push_back(Row("careful", score, floor ? 0.75 : Step(score), floor ? "floor" : "s"));
    rows.push_back(Row("plain", score, Step(score)));
  }
  const ParityReport report = CompareGroups(rows, {});
  EXPECT_TRUE(report.fair());
  EXPECT_EQ(report.strata, 2);
  EXPECT_LT(report.groups[0].compared, report.groups[0].rows);
}

TEST(CompareGroups, TooFewAreNotCalledEqual) {
  std::vector<ParityRow> rows;
  for (int i = 0; i < 8; ++i) rows.push_back(Row(i % 2 ? "a" : "b", 0.5, i % 3 ? 0.4 : 0.6));
  for (const ParityGroup& group : CompareGroups(rows, {}).groups) {
    EXPECT_EQ(group.verdict, ParityVerdict::kUnknown);
  }
  EXPECT_TRUE(CompareGroups({}, {}).groups.empty());
  const ParityReport alone = CompareGroups({Row("a", 0.5, 0.5)}, {});
  EXPECT_EQ(alone.groups[0].compared, 0);
  EXPECT_EQ(alone.groups[0].verdict, ParityVerdict::kUnknown);
}

TEST(CompareGroups, SmallDifferencesOfManyAreNegligible) {
  std::mt19937 rng(5);
  std::vector<ParityRow> rows;
  for (int i = 0; i < 20000; ++i) {
    const double score = static_cast<double>(rng() % 1000) / 1000;
    const double noise = (static_cast<double>(rng() % 1000) / 1000 - 0.5) * 0.02;
    rows.push_back(Row(i % 2 ? "a" : "b", score, Step(score) * (i % 2 ? 0.995 : 1) + noise));
  }
  const ParityReport report = CompareGroups(rows, {});
  EXPECT_LT(report.groups[0].adjusted_p, 0.01);
  EXPECT_EQ(report.groups[0].verdict, ParityVerdict::kNegligible);
  EXPECT_TRUE(report.fair());
}

TEST(CompareGroups, TheOrderOfRowsChangesNothing) {
  std::mt19937 rng(6);
  std::vector<ParityRow> rows;
  for (int i = 0; i < 300; ++i) {
    const double score = static_cast<double>(rng() % 50) / 50;
    rows.push_back(Row(std::string(1, static_cast<char>('a' + rng() % 4)), score,
                       Step(score) + (rng() % 5 == 0 ? 0.1 : 0)));
  }
  const ParityReport first = CompareGroups(rows, {});
  std::shuffle(rows.begin(), rows.end(), rng);
  const ParityReport second = CompareGroups(rows, {});
  for (size_t g = 0; g < first.groups.size(); ++g) {
    EXPECT_EQ(first.groups[g].p, second.groups[g].p);
    EXPECT_EQ(first.groups[g].difference, second.groups[g].difference);
  }
}

TEST(ToParityRow, LeavesOutWhoPinnedAndTheServerItself) {
  RoutingDecision d;
  d.tenant = "acme", d.language = "de", d.prompt_class = "code";
  d.lambda = 0.4, d.served_lambda = 0.5, d.score = 0.3;
  ParityRow row;
  ASSERT_TRUE(ToParityRow(d, ParityBy::kTenant, true, row));
  EXPECT_EQ(row.group, "acme");
  EXPECT_EQ(row.lambda, 0.5);
  ASSERT_TRUE(ToParityRow(d, ParityBy::kLanguage, false, row));
  EXPECT_EQ(row.group, "de");
  EXPECT_EQ(row.lambda, 0.4);
  ASSERT_TRUE(ToParityRow(d, ParityBy::kClass, false, row));
  EXPECT_EQ(row.group, "code");
  const std::string stratum = row.stratum;
  const auto changes = [&](auto change) {
    RoutingDecision other = d;
    change(other);
    EXPECT_TRUE(ToParityRow(other, ParityBy::kTenant, true, row));
    return row.stratum != stratum;
  };
  EXPECT_TRUE(changes([](auto& o) { o.min_lambda = 0.5; }));
  EXPECT_TRUE(changes([](auto& o) { o.queue_pressure = 0.7; }));
  EXPECT_TRUE(changes([](auto& o) { o.resident_variants = 3; }));
  EXPECT_TRUE(changes([](auto& o) { o.policy = "other"; }));
  EXPECT_FALSE(changes([](auto& o) { o.reason = "LOAD"; }));  // a result, not a circumstance
  EXPECT_FALSE(changes([](auto& o) { o.tenant = "x"; }));
  d.pinned = true;
  EXPECT_FALSE(ToParityRow(d, ParityBy::kTenant, true, row));
  d.pinned = false, d.tenant = "__overhead__";
  EXPECT_FALSE(ToParityRow(d, ParityBy::kTenant, true, row));
}

}  // namespace
}  // namespace lift
