#include "router/predictor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "tests/router/random_router.h"

namespace lift::router {
namespace {

using nlohmann::json;
using test::RandomRouter;
using testing::HasSubstr;

Predictor::Parts SmallParts() {
  Predictor::Parts parts;
  parts.curve = {{2, std::log(0.4), 1}, {3, std::log(0.1), 1}, {4, std::log(0.02), 1}};
  parts.finest_bits = 6;
  parts.quantiles = {-1, 0, 1};
  parts.version = "trained-x";
  parts.report = "{}";
  return parts;
}

TEST(Predictor, JsonRoundTripPredictsTheSame) {
  RandomRouter random(1);
  for (int i = 0; i < 200; ++i) {
    const auto predictor = *Predictor::Create(random.Parts());
    const auto again = Predictor::FromJson(predictor->ToJson());
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ((*again)->ToJson(), predictor->ToJson());
    for (int j = 0; j < 20; ++j) {
      const FeatureVector x = Features(random.Text(), random.Prefill());
      const double harm = predictor->Harm(x), bits = random.Real(0.5, 12);
      EXPECT_EQ((*again)->Harm(x), harm);
      EXPECT_EQ((*again)->ExpectedKl(harm, bits), predictor->ExpectedKl(harm, bits));
      EXPECT_EQ((*again)->Percentile(harm), predictor->Percentile(harm));
    }
  }
}

TEST(Predictor, LossFallsWithBitsAndRisesWithHarm) {
  RandomRouter random(2);
  for (int i = 0; i < 300; ++i) {
    const auto predictor = *Predictor::Create(random.Parts());
    const double harm = random.Real(-2, 2);
    double before = std::numeric_limits<double>::infinity();
    for (double bits = 0.5; bits < 14; bits += 0.25) {
      const double kl = predictor->ExpectedKl(harm, bits);
      EXPECT_LE(kl, before);
      EXPECT_GE(predictor->ExpectedKl(harm + 0.5, bits), kl);
      before = kl;
    }
    EXPECT_EQ(before, 0);
  }
}

TEST(Predictor, InterpolatesTheLogarithmBetweenKnots) {
  const auto p = *Predictor::Create(SmallParts());
  EXPECT_NEAR(p->ExpectedKl(0, 2), 0.4, 1e-12);
  EXPECT_NEAR(p->ExpectedKl(0, 2.5), 0.2, 1e-12);
  EXPECT_NEAR(p->ExpectedKl(1, 3), 0.1 * std::exp(1), 1e-12);
  EXPECT_NEAR(p->ExpectedKl(0, 1), 1.6, 1e-12);  // fewer than were seen: the line goes on
  EXPECT_NEAR(p->ExpectedKl(0, 5), 0.02, 1e-12);
  EXPECT_EQ(p->ExpectedKl(0, 6), 0);
  EXPECT_EQ(p->Percentile(-3), 0);
  EXPECT_NEAR(p->Percentile(0.5), 0.75, 1e-12);
  EXPECT_EQ(p->Percentile(7), 1);
}

TEST(Predictor, KeepsHarmWithinWhatWasSeen) {
  Predictor::Parts parts = SmallParts();
  parts.base = 50;
  EXPECT_EQ((*Predictor::Create(parts))->Harm({}), 1);
  parts.base = -50;
  EXPECT_EQ((*Predictor::Create(parts))->Harm({}), -1);
}

TEST(Predictor, UnknownFeaturesGoWhereTheTreeSays) {
  Predictor::Tree tree(3);
  tree[0] = {
      .feature = 17, .threshold = 2, .low = 1, .high = 2, .unknown_is_low = true, .value = 0};
  tree[1].value = -0.5, tree[2].value = 0.5;
  const FeatureVector unread = Features({}, {});
  EXPECT_EQ(Predictor::ValueOf(tree, unread), -0.5);
  tree[0].unknown_is_low = false;
  EXPECT_EQ(Predictor::ValueOf(tree, unread), 0.5);
  EXPECT_EQ(Predictor::ValueOf(tree, Features({}, {.available = true, .last_entropy = 1})), -0.5);
}

Predictor::Parts ProbingParts(double probe_bits) {
  const auto names = FeatureNames();
  Predictor::Parts parts = SmallParts();
  parts.trees = {Predictor::Tree(3)};
  parts.trees[0][0] = {
      .feature = static_cast<int>(std::find(names.begin(), names.end(), "probe") - names.begin()),
      .threshold = std::log(0.1),
      .low = 1,
      .high = 2,
      .unknown_is_low = true,
      .value = 0};
  parts.trees[0][1].value = -0.5, parts.trees[0][2].value = 0.5;
  parts.probe_bits = probe_bits;
  return parts;
}

TEST(Predictor, LooksAtTheProbeWhereThereWasOne) {
  const auto harm = [](const PrefillSignals& prefill) {
    return (*Predictor::Create(ProbingParts(2)))->Harm(Features({}, prefill));
  };
  EXPECT_EQ(harm({.available = true, .probe_kl = 0.2}), 0.5);
  EXPECT_EQ(harm({.available = true, .probe_kl = 0}), -0.5);
  EXPECT_EQ(harm({.available = true}), -0.5);
  EXPECT_EQ(harm({.available = false, .probe_kl = 0.2}), -0.5);
  EXPECT_TRUE((*Predictor::Create(ProbingParts(2)))->UsesProbe());
  EXPECT_FALSE((*Predictor::Create(ProbingParts(0)))->UsesProbe());
  EXPECT_FALSE((*Predictor::Create(SmallParts()))->UsesProbe());
}

TEST(Predictor, TheProbingVariantIsTheOneTrainedWith) {
  const std::vector<VariantView> variants = {{.name = "q2", .bits_per_weight = 2},
                                             {.name = "q3", .bits_per_weight = 3.02},
                                             {.name = "q6", .bits_per_weight = 6}};
  const auto probing = [&](double bits, PrecisionRequest request = {}, Policy policy = {}) {
    RouterConfig config{.policy = policy, .predictor = *Predictor::Create(ProbingParts(bits))};
    return ProbeVariant(request, variants, config);
  };
  EXPECT_EQ(probing(2), 0);
  EXPECT_EQ(probing(3), 1);   // a cut moved it by a little
  EXPECT_EQ(probing(4), -1);  // no such variant
  EXPECT_EQ(probing(6), -1);  // the finest does not differ from itself
  EXPECT_EQ(probing(0), -1);  // trained without
  EXPECT_EQ(probing(3, {.mode = Mode::kPinned, .variant = "q2"}), -1);
  const Policy fixed{.kind = Policy::Kind::kFixed, .variant = "q2"};
  EXPECT_EQ(probing(3, {}, fixed), -1);
  EXPECT_EQ(probing(3, {.max_quality_loss = 0.1}, fixed), 1);  // the cap asks for this query's loss
  EXPECT_EQ(ProbeVariant({}, variants, {}), -1);
}

TEST(Predictor, RefusesWhatIsNoPredictor) {
  const json good = json::parse((*Predictor::Create(SmallParts()))->ToJson());
  ASSERT_TRUE(Predictor::FromJson(good.dump()).ok());
  const auto refused = [&](const char* what, const std::function<void(json&)>& spoil) {
    json bad = good;
    spoil(bad);
    const auto predictor = Predictor::FromJson(bad.dump());
    EXPECT_EQ(predictor.status().code(), absl::StatusCode::kInvalidArgument) << what;
  };
  refused("format", [](json& j) { j["format"] = "liftserve-router-9"; });
  refused("feature", [](json& j) { j["features"][0] = "tenant"; });
  refused("missing", [](json& j) { j.erase("curve"); });
  refused("no curve", [](json& j) { j["curve"] = json::array(); });
  refused("curve order", [](json& j) { j["curve"][1][0] = 1.5; });
  refused("falling slope", [](json& j) { j["curve"][1][2] = -1; });
  refused("finest below", [](json& j) { j["finest_bits"] = 4; });
  refused("quantiles", [](json& j) { j["quantiles"] = {1, 0}; });
  refused("wrong guesses", [](json& j) { j["wrong_guesses"] = {-1, 1}; });
  refused("power of wrong guesses", [](json& j) { j["wrong_guesses"] = {1, 0}; });
  refused("probe", [](json& j) { j["probe_bits"] = -1; });
  refused("loop", [](json& j) { j["trees"] = json::parse("[[[0,1.0,0,0,true]]]"); });
  refused("child", [](json& j) { j["trees"] = json::parse("[[[0,1.0,1,9,true],[0.5],[0.5]]]"); });
  refused("feature index",
          [](json& j) { j["trees"] = json::parse("[[[99,1.0,1,2,true],[0.5],[0.5]]]"); });
  refused("empty tree", [](json& j) { j["trees"] = json::parse("[[]]"); });
  refused("type", [](json& j) { j["base"] = "x"; });
  for (const char* text : {"", "{", "[]", "null", "{}", "\"x\""}) {
    EXPECT_EQ(Predictor::FromJson(text).status().code(), absl::StatusCode::kInvalidArgument)
        << text;
  }
  const auto unknown = [&] {
    json bad = good;
    bad["features"][0] = "tenant";
    return std::string(Predictor::FromJson(bad.dump()).status().message());
  }();
  EXPECT_THAT(unknown, HasSubstr("train it again"));
}

// A document may list its features in another order than this program.
TEST(Predictor, FeaturesAreFoundByName) {
  Predictor::Parts parts = SmallParts();
  Predictor::Tree tree(3);
  tree[0] = {
      .feature = 9, .threshold = 0.5, .low = 1, .high = 2, .unknown_is_low = true, .value = 0};
  tree[2].value = 0.75;
  parts.trees = {tree};
  json document = json::parse((*Predictor::Create(parts))->ToJson());
  std::swap(document["features"][0], document["features"][9]);
  document["trees"][0][0][0] = 0;
  const auto predictor = *Predictor::FromJson(document.dump());
  TextFeatures code;
  code.has_code = true;
  EXPECT_EQ(predictor->Harm(Features(code, {})), 0.75);
  EXPECT_EQ(predictor->Harm(Features({}, {})), 0);
}

}  // namespace
}  // namespace lift::router
