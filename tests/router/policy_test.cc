// Properties every policy keeps, over random predictors, variants, queries and loads.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "router/choose.h"
#include "router/draft.h"
#include "tests/router/random_router.h"

namespace lift::router {
namespace {

using test::RandomRouter;
using testing::HasSubstr;

constexpr int kRounds = 3000;

int Chosen(const TextFeatures& text, const PrefillSignals& prefill,
           std::span<const VariantView> variants, double pressure, const RouterConfig& config,
           const PrecisionRequest& request = {}) {
  const auto decision = Route(text, prefill, request, variants, {pressure}, config);
  EXPECT_TRUE(decision.ok()) << decision.status();
  return decision.ok() ? decision->variant : -1;
}

TEST(Policy, ParsesWhatItPrints) {
  for (const char* text : {"balanced", "budget:3.5", "quality:0.02", "fixed:q4.0"}) {
    const auto policy = ParsePolicy(text);
    ASSERT_TRUE(policy.ok()) << policy.status();
    EXPECT_EQ(PolicyName(*policy), text);
  }
  for (const char* text :
       {"", "balanced:", "budget", "budget:", "budget:0", "budget:-1", "budget:x", "budget:inf",
        "quality:nan", "fixed:", "cheap", "Budget:3"}) {
    const auto policy = ParsePolicy(text);
    EXPECT_EQ(policy.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(policy.status().message()), HasSubstr("quality:NATS")) << text;
  }
}

TEST(Policy, VersionNamesPredictorAndPolicy) {
  RandomRouter random(1);
  RouterConfig config;
  EXPECT_EQ(config.Version(), "heuristic-1/balanced");
  config.predictor = *Predictor::Create(random.Parts());
  config.policy = *ParsePolicy("budget:4");
  EXPECT_EQ(config.Version(), "trained-test/budget:4");
}

TEST(Policy, IsDeterministic) {
  RandomRouter random(2);
  for (int i = 0; i < kRounds; ++i) {
    const RouterConfig config = random.Config(random.Int(0, 1) == 1);
    const auto variants = random.Variants();
    const TextFeatures text = random.Text();
    const PrefillSignals prefill = random.Prefill();
    const double pressure = random.Real(0, 1);
    EXPECT_EQ(Chosen(text, prefill, variants, pressure, config),
              Chosen(text, prefill, variants, pressure, config));
  }
}

TEST(Policy, MoreBudgetIsNeverCoarserAndMorePressureNeverFiner) {
  RandomRouter random(3);
  for (int i = 0; i < kRounds; ++i) {
    RouterConfig config = random.Config(random.Int(0, 1) == 1);
    const auto variants = random.Variants();
    const TextFeatures text = random.Text();
    const PrefillSignals prefill = random.Prefill();
    int before = -1;
    for (const double budget : {1.0, 2.0, 2.5, 3.0, 4.0, 5.5, 8.0, 12.0, 20.0}) {
      config.policy = {.kind = Policy::Kind::kBudget, .budget_bits = budget};
      const int chosen = Chosen(text, prefill, variants, 0, config);
      EXPECT_GE(chosen, before);
      before = chosen;
    }
    before = static_cast<int>(variants.size());
    for (const double cap : {1e-5, 1e-3, 1e-2, 0.1, 0.4, 2.0}) {
      config.policy = {.kind = Policy::Kind::kQuality, .max_loss = cap};
      const int chosen = Chosen(text, prefill, variants, 0, config);
      EXPECT_LE(chosen, before);
      before = chosen;
    }
    const RouterConfig any = random.Config(random.Int(0, 1) == 1);
    before = static_cast<int>(variants.size());
    for (const double pressure : {0.0, 0.4, 0.55, 0.7, 0.85, 1.0, 5.0}) {
      const int chosen = Chosen(text, prefill, variants, pressure, any);
      EXPECT_LE(chosen, before);
      before = chosen;
    }
  }
}

TEST(Policy, MoreHarmIsNeverCoarser) {
  RandomRouter random(4);
  for (int i = 0; i < kRounds; ++i) {
    const RouterConfig config = random.Config(true);
    if (config.policy.kind == Policy::Kind::kFixed) continue;
    const auto variants = random.Variants();
    int before = -1;
    for (double harm = -2; harm <= 2; harm += 0.25) {
      const int chosen = Chooser(0, harm, variants, config).Choose(0);
      EXPECT_GE(chosen, before) << PolicyName(config.policy) << " harm " << harm;
      before = chosen;
    }
  }
}

// What the budget promises, it keeps on queries like those it was trained on.
TEST(Policy, BudgetHoldsOnTheTrainingQueries) {
  RandomRouter random(5);
  for (int i = 0; i < 300; ++i) {
    RouterConfig config = random.Config(true);
    const auto variants = random.Variants();
    const size_t first = FirstFitVariant(variants);
    const double budget = random.Real(variants[first].bits_per_weight,
                                      std::max(12.0, variants[first].bits_per_weight));
    config.policy = {.kind = Policy::Kind::kBudget, .budget_bits = budget};
    double bits = 0;
    const auto plans = PlanDrafts(variants, config);
    const auto quantiles = config.predictor->quantiles();
    for (const double harm : quantiles) {
      const int chosen = Chooser(0, harm, variants, config).Choose(0);
      bits += plans[static_cast<size_t>(chosen)].bits;
    }
    EXPECT_LE(bits / static_cast<double>(quantiles.size()), budget + 1e-9);
  }
}

TEST(Policy, PressureEndsAtTheCoarsestFitVariant) {
  RandomRouter random(6);
  for (int i = 0; i < kRounds; ++i) {
    RouterConfig config = random.Config(true);
    if (config.policy.kind == Policy::Kind::kQuality) continue;
    const auto variants = random.Variants();
    const int chosen = Chosen(random.Text(), random.Prefill(), variants, 1, config);
    if (config.policy.kind == Policy::Kind::kFixed) {
      EXPECT_EQ(chosen, variants.size() > 1 ? 1 : 0);
    } else {
      EXPECT_EQ(chosen, static_cast<int>(FirstFitVariant(variants)));
    }
  }
}

// 10^5 requests of every kind: what is served meets the floor that was asked for.
TEST(Policy, FloorsHoldInAHundredThousandRandomRequests) {
  RandomRouter random(7);
  int served = 0, refused = 0;
  for (int i = 0; i < 1000; ++i) {
    const RouterConfig config = random.Config(random.Int(0, 1) == 1);
    const auto variants = random.Variants();
    for (int j = 0; j < 100; ++j) {
      PrecisionRequest request;
      if (random.Int(0, 2) == 0) request.mode = Mode::kPinned, request.variant = "q1";
      if (random.Int(0, 1) == 0) request.min_lambda = random.Real(0, 1);
      if (random.Int(0, 1) == 0) request.max_quality_loss = random.Real(1e-4, 1);
      const auto decision =
          Route(random.Text(), random.Prefill(), request, variants, {random.Real(0, 1.2)}, config);
      EXPECT_EQ(CheckPrecision(request, variants), decision.status());
      if (!decision.ok()) {
        ++refused;
        continue;
      }
      ++served;
      const VariantView& v = variants[static_cast<size_t>(decision->variant)];
      EXPECT_GE(v.lambda, request.min_lambda);
      if (request.max_quality_loss > 0) {
        EXPECT_LE(v.lambda >= 1 && v.kl < 0 ? 0 : v.kl, request.max_quality_loss);
        EXPECT_TRUE(v.lambda >= 1 || v.kl >= 0);
      }
      if (request.mode == Mode::kPinned) {
        EXPECT_EQ(v.name, request.variant);
      }
    }
  }
  EXPECT_EQ(served + refused, 100000);
  EXPECT_GT(served, 20000);
  EXPECT_GT(refused, 5000);
}

TEST(Policy, FixedServesItsVariantToAllAndTheFinestWhileItIsGone) {
  RandomRouter random(8);
  RouterConfig config;
  config.policy = *ParsePolicy("fixed:b");
  const std::vector<VariantView> variants = {
      {"a", 0.25, 2, 0.3, 1}, {"b", 0.4, 3, 0.1, 2}, {"c", 0.5, 4, 0.01, 3}};
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(Chosen(random.Text(), random.Prefill(), variants, random.Real(0, 1), config), 1);
  }
  EXPECT_EQ(Chosen({}, {}, std::span(variants).first(1), 0, config), 0);
  EXPECT_EQ(Chosen({}, {}, variants, 0, config, {.min_lambda = 0.45}), 2);
}

TEST(Policy, CapsCountWhatThisQueryIsExpectedToLose) {
  Predictor::Parts parts;
  parts.curve = {{2, std::log(0.3), 1}, {4, std::log(0.03), 1}};
  parts.finest_bits = 8;
  parts.quantiles = {-2, 2};
  parts.report = "{}";
  Predictor::Tree tree(3);  // long prompts lose e^2 times as much
  tree[0] = {.feature = 0, .threshold = 5, .low = 1, .high = 2, .unknown_is_low = true, .value = 0};
  tree[2].value = 2;
  parts.trees = {tree};
  RouterConfig config;
  config.predictor = *Predictor::Create(parts);
  config.policy = *ParsePolicy("budget:4");
  const std::vector<VariantView> variants = {
      {"q2", 0.25, 2, 0.3, 1}, {"q4", 0.5, 4, 0.03, 2}, {"q8", 0.75, 8, 0.001, 3}};
  TextFeatures small, large;
  large.bytes = 100000;
  const PrecisionRequest cap{.max_quality_loss = 0.1};
  EXPECT_EQ(Chosen(small, {}, variants, 1, config, cap), 1);
  const auto raised = Route(large, {}, cap, variants, {1}, config);  // .03 e^2 = .22
  ASSERT_TRUE(raised.ok());
  EXPECT_EQ(raised->variant, 2);
  EXPECT_EQ(raised->reason, Reason::kFloor);
  EXPECT_NEAR(
      Route(large, {}, {.mode = Mode::kPinned, .variant = "q4"}, variants, {}, config)->expected_kl,
      0.03 * std::exp(2), 1e-12);
  const auto losses = ExpectedLosses(small, {}, variants, config);
  EXPECT_THAT(losses, testing::ElementsAre(testing::DoubleNear(0.3, 1e-12),
                                           testing::DoubleNear(0.03, 1e-12), 0));
  EXPECT_TRUE(ExpectedLosses(small, {}, variants, {}).empty());
}

}  // namespace
}  // namespace lift::router
