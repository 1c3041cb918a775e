#include "router/draft.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "router/choose.h"
#include "router/predictor.h"
#include "tests/router/random_router.h"

namespace lift::router {
namespace {

using test::RandomRouter;

TEST(Drafts, PassesFallAsGuessesAreRight) {
  EXPECT_EQ(PassesPerToken(0, 4), 1);
  EXPECT_EQ(PassesPerToken(1, 4), 0.2);
  EXPECT_EQ(PassesPerToken(0.7, 0), 1);
  // Two guesses: .3 of the passes give one token, .21 two, .49 three.
  EXPECT_NEAR(PassesPerToken(0.7, 2), 1 / (0.3 * 1 + 0.21 * 2 + 0.49 * 3), 1e-12);
}

// Variants whose KL the predictor knows to be .5, .1, .01 and 0.
struct Known {
  Known() {
    Predictor::Parts parts;
    parts.curve = {{3, std::log(0.5), 1}, {4, std::log(0.1), 1}, {6, std::log(0.01), 1}};
    parts.finest_bits = 8;
    parts.quantiles = {-1, 0, 1};
    parts.version = "trained-x";
    parts.wrong_scale = 0.5;
    parts.wrong_power = 0.5;
    config.predictor = *Predictor::Create(parts);
    config.most_drafts = 4;
  }
  std::vector<VariantView> variants{
      {"q3", .4, 3, .5, 3}, {"q4", .5, 4, .1, 4}, {"q6", .65, 6, .01, 6}, {"q8", .75, 8, 0, 8}};
  RouterConfig config;
};

TEST(Drafts, ThePlanReadsLeast) {
  const Known known;
  const auto& predictor = *known.config.predictor;
  EXPECT_NEAR(predictor.RightGuesses(3, 8), 1 - 0.5 * std::sqrt(0.5), 1e-9);
  EXPECT_NEAR(predictor.RightGuesses(4, 6), 1 - 0.5 * std::sqrt(0.09), 1e-9);
  EXPECT_EQ(predictor.RightGuesses(6, 6), 1);
  const auto plans = PlanDrafts(known.variants, known.config);
  ASSERT_EQ(plans.size(), 4u);
  EXPECT_EQ(plans[0].variant, -1);
  EXPECT_EQ(plans[0].bits, 3);
  for (size_t v = 0; v < 4; ++v) {
    double least = known.variants[v].bits_per_weight;
    for (size_t d = 0; d < v; ++d) {
      const double right = predictor.RightGuesses(known.variants[d].bits_per_weight,
                                                  known.variants[v].bits_per_weight);
      double delivered = 1;
      for (int k = 1; k <= 4; ++k) {
        delivered += std::pow(right, k);
        least = std::min(
            least, (k * known.variants[d].bits_per_weight + known.variants[v].bits_per_weight) /
                       delivered);
      }
    }
    EXPECT_NEAR(plans[v].bits, least, 1e-9) << v;
    EXPECT_TRUE(plans[v].known);
  }
  EXPECT_GE(plans[3].variant, 0);
  EXPECT_LT(plans[3].bits, 7);
}

TEST(Drafts, WithoutKnowledgeTheCoarsestTriesAndNothingIsCountedOn) {
  Known known;
  known.config.predictor = nullptr;
  for (const int most : {0, 3}) {
    known.config.most_drafts = most;
    const auto plans = PlanDrafts(known.variants, known.config);
    for (size_t v = 0; v < plans.size(); ++v) {
      EXPECT_EQ(plans[v].variant, most > 0 && v > 0 ? 0 : -1);
      EXPECT_EQ(plans[v].tokens, most > 0 && v > 0 ? most : 0);
      EXPECT_EQ(plans[v].bits, known.variants[v].bits_per_weight);
      EXPECT_FALSE(plans[v].known);
    }
  }
}

TEST(Drafts, NoGuessesWhereTheyAreWrong) {
  const Known known;
  auto parts = known.config.predictor->parts();
  parts.wrong_scale = 100;
  const RouterConfig config{.policy = {}, .predictor = *Predictor::Create(parts), .most_drafts = 4};
  for (const DraftPlan& plan : PlanDrafts(known.variants, config)) {
    EXPECT_EQ(plan.variant, -1);
    EXPECT_EQ(plan.tokens, 0);
  }
}

TEST(Drafts, ABudgetBuysMoreWithThem) {
  Known known;
  known.config.policy = {.kind = Policy::Kind::kBudget, .budget_bits = 6.5};
  const auto served = [&](int most) {
    known.config.most_drafts = most;
    return Chooser(0, 0, known.variants, known.config).Choose(0);
  };
  EXPECT_EQ(served(0), 2);
  EXPECT_EQ(served(4), 3);
  EXPECT_EQ(known.config.Version(), "trained-x/budget:6.5/guess:4");
}

TEST(Drafts, MoreGuessesNeverCostMoreAndFinerVariantsNeverLess) {
  RandomRouter random(12);
  for (int i = 0; i < 2000; ++i) {
    RouterConfig config = random.Config(true);
    const auto variants = random.Variants();
    std::vector<double> before;
    for (config.most_drafts = 0; config.most_drafts < 6; ++config.most_drafts) {
      const auto plans = PlanDrafts(variants, config);
      for (size_t v = 0; v < plans.size(); ++v) {
        EXPECT_GE(plans[v].bits, v == 0 ? 0 : plans[v - 1].bits);
        EXPECT_LE(plans[v].bits, before.empty() ? variants[v].bits_per_weight : before[v]);
        EXPECT_LE(plans[v].bits, variants[v].bits_per_weight);
        EXPECT_LT(plans[v].variant, static_cast<int>(v));
        EXPECT_LE(plans[v].tokens, config.most_drafts);
      }
      before.clear();
      for (const DraftPlan& plan : plans) before.push_back(plan.bits);
    }
  }
}

}  // namespace
}  // namespace lift::router
