// The router's training: traces of a model whose every logit is known to depend on the right token
// and precision, and fits whose truth was planted.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>

#include "absl/strings/str_cat.h"
#include "calibration/router/boost.h"
#include "calibration/router/chart.h"
#include "calibration/router/curves.h"
#include "calibration/router/drafts.h"
#include "calibration/router/fit.h"
#include "calibration/router/kept_state.h"
#include "calibration/router/trace.h"
#include "tests/engine/fake_model.h"

namespace lift {
namespace {

using router::FeatureVector;
using testing::HasSubstr;

std::vector<RouterPrompt> Prompts(int count) {
  std::vector<RouterPrompt> prompts;
  for (int i = 0; i < count; ++i) {
    RouterPrompt& p = prompts.emplace_back();
    for (int t = 0; t < 3 + i % 11; ++t) p.tokens.push_back((i * 31 + t * 7) % 256);
    p.text = absl::StrCat("prompt ", i);
    p.kind = i % 2 == 0 ? "even" : "odd";
  }
  return prompts;
}

std::vector<PromptTrace> Trace(bool recurrent, int64_t batch, double temperature = 1) {
  FakeModel model({.num_blocks = 64, .max_context = 64, .eos_logit = 0.5, .recurrent = recurrent});
  ThreadPool pool(2);
  TraceOptions options{.max_new_tokens = 9,
                       .temperature = temperature,
                       .seed = 5,
                       .kept_state = true,
                       .batch = batch,
                       .stop_ids = {kFakeEos}};
  auto traces = CollectTraces(model, pool, Prompts(23), options);
  EXPECT_TRUE(traces.ok()) << traces.status();
  return *std::move(traces);
}

void ExpectEqual(const std::vector<PromptTrace>& a, const std::vector<PromptTrace>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].positions, b[i].positions) << i;
    EXPECT_EQ(a[i].kl, b[i].kl) << i;
    EXPECT_EQ(a[i].entropy, b[i].entropy) << i;
    EXPECT_EQ(a[i].agrees, b[i].agrees) << i;
    EXPECT_EQ(a[i].draws, b[i].draws) << i;
    EXPECT_EQ(a[i].kept, b[i].kept) << i;
    EXPECT_EQ(a[i].prefill.last_entropy, b[i].prefill.last_entropy) << i;
    EXPECT_EQ(a[i].kind, b[i].kind) << i;
  }
}

TEST(RouterTrace, DoesNotDependOnTheBatchOrTheKindOfState) {
  const auto alone = Trace(false, 1);
  EXPECT_GT(alone.size(), 15u);
  ExpectEqual(alone, Trace(false, 8));
  ExpectEqual(alone, Trace(true, 8));  // recurrent state is rewound by copies
}

TEST(RouterTrace, ProbesWhatStateAllows) {
  const auto alone = Trace(false, 1), batch = Trace(false, 8);
  for (size_t i = 0; i < alone.size(); ++i) {
    EXPECT_GT(alone[i].prefill.probe_kl, 0) << i;
    EXPECT_EQ(alone[i].prefill.probe_kl, batch[i].prefill.probe_kl) << i;
  }
  for (const PromptTrace& p : Trace(true, 8)) EXPECT_EQ(p.prefill.probe_kl, -1);
}

TEST(RouterTrace, FinestIsTheReferenceAndCoarserOnesDiffer) {
  for (const PromptTrace& p : Trace(false, 4)) {
    const size_t variants = p.kl.size() / static_cast<size_t>(p.positions);
    EXPECT_EQ(variants, 5u);
    EXPECT_EQ(p.MeanKl(variants - 1), 0);
    EXPECT_EQ(p.Agreement(variants - 1), 1);
    EXPECT_GT(p.MeanKl(0), 0);
    EXPECT_LE(p.positions, 8);
  }
}

// The fake model's answers depend on which variant wrote what is before them.
TEST(RouterTrace, KeptStateMattersUnlessTheFinestWroteIt) {
  TraceSet set;
  set.variants.resize(5);
  set.prompts = Trace(false, 4);
  double coarse = 0;
  for (const PromptTrace& p : set.prompts) {
    ASSERT_EQ(p.kept.size(), 5u);
    EXPECT_EQ(p.kept.back(), 0);
    coarse += p.kept.front();
  }
  EXPECT_GT(coarse, 0);
  const std::vector<KeptState> kept = CompareKeptState(set);
  ASSERT_EQ(kept.size(), 5u);
  EXPECT_GT(kept[0].kept_kl, 0);
  EXPECT_GT(kept[0].staying_kl, 0);
  EXPECT_EQ(kept[4].kept_kl, 0);
  set.prompts.back().kept.clear();
  EXPECT_TRUE(CompareKeptState(set).empty());
}

TEST(RouterTrace, GreedyAnswersAreNotDrawnOnes) {
  const auto greedy = Trace(false, 4, 0), drawn = Trace(false, 4, 1);
  EXPECT_NE(greedy.front().kl, drawn.front().kl);
}

// What is drawn at temperature 0 is the most likely token; a finer variant draws more like the
// finest.
TEST(RouterTrace, DrawsAreTheVariantsOwn) {
  for (const PromptTrace& p : Trace(false, 4, 0)) {
    const auto count = static_cast<size_t>(p.positions);
    ASSERT_EQ(p.draws.size(), 5 * count);
    for (size_t cell = 0; cell < p.draws.size(); ++cell) {
      EXPECT_EQ(p.draws[cell] == p.draws[4 * count + cell % count], p.agrees[cell] != 0);
    }
  }
  TraceSet drawn;
  drawn.variants.resize(5);
  drawn.prompts = Trace(false, 4, 1);
  EXPECT_TRUE(KnowsDraws(drawn));
  EXPECT_EQ(RightGuesses(drawn, 4, 4), 1);
  EXPECT_LT(RightGuesses(drawn, 0, 4), 0.9);
  drawn.prompts.back().draws.clear();
  EXPECT_FALSE(KnowsDraws(drawn));
}

TEST(RouterDrafts, BitsAreCountedPassByPass) {
  PromptTrace p;
  p.positions = 6;
  p.draws = {1, 1, 9, 1, 1, 1,   // a guesser that is wrong once
             1, 1, 1, 1, 1, 1};  // what is right
  const std::vector<double> bits = {3, 8};
  EXPECT_EQ(ReadBits(p, bits, 1, {}), 6 * 8);
  EXPECT_EQ(ReadBits(p, bits, 0, {}), 6 * 3);
  // Two guesses right and one more token, twice.
  EXPECT_EQ(ReadBits(p, bits, 1, {.variant = 0, .tokens = 2}), 2 * (2 * 3 + 8));
  // Four guesses of which two count; two (the last token needs none) and the last.
  EXPECT_EQ(ReadBits(p, bits, 1, {.variant = 0, .tokens = 4}), 4 * 3 + 8 + 2 * 3 + 8);
}

TEST(RouterTrace, RefusesAPromptThatTheContextDoesNotHold) {
  FakeModel model({.num_blocks = 64, .max_context = 16});
  ThreadPool pool(1);
  const auto traces = CollectTraces(model, pool, Prompts(12), {.max_new_tokens = 9});
  EXPECT_EQ(traces.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(traces.status().message()), HasSubstr("prompt 6 has 8 tokens"));
}

TEST(RouterTrace, FileRoundTripsAndDamageIsRefused) {
  TraceSet set;
  set.weights_sha256 = "abc";
  set.temperature = 1;
  set.variants = {{"a", 0.25, 2, 10, 0.4},
                  {"b", 0.5, 4, 20, 0.1},
                  {"c", 0.6, 5, 25, 0.05},
                  {"d", 0.7, 7, 30, 0.01},
                  {"full", 1, 16, 90, 0}};
  set.prompts = Trace(false, 4);
  const std::string path = testing::TempDir() + "/traces.cbor";
  ASSERT_TRUE(SaveTraces(path, set).ok());
  const auto again = LoadTraces(path);
  ASSERT_TRUE(again.ok()) << again.status();
  ExpectEqual(set.prompts, again->prompts);
  EXPECT_EQ(again->variants.size(), 5u);
  EXPECT_EQ(again->variants[1].plane_bytes, 20u);

  const auto size = std::filesystem::file_size(path);
  std::filesystem::resize_file(path, size - 9);
  EXPECT_EQ(LoadTraces(path).status().code(), absl::StatusCode::kInvalidArgument);
  set.prompts[0].kl.pop_back();
  ASSERT_TRUE(SaveTraces(path, set).ok());
  EXPECT_EQ(LoadTraces(path).status().code(), absl::StatusCode::kInvalidArgument);
  std::ofstream(path) << "{}";
  EXPECT_EQ(LoadTraces(path).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(LoadTraces(path + ".no").status().code(), absl::StatusCode::kNotFound);
}

TEST(Boost, LearnsAFunctionAndKeepsItMonotone) {
  std::mt19937_64 random(1);
  const auto uniform = [&] { return static_cast<double>(random() >> 11) * 0x1p-53; };
  std::vector<FeatureVector> x(1500);
  std::vector<double> y;
  for (FeatureVector& row : x) {
    for (double& v : row) v = uniform();
    if (uniform() < 0.1) row[2] = std::nan("");
    y.push_back(std::sin(6 * row[0]) + (row[1] > 0.5 ? 1 : 0) + (std::isnan(row[2]) ? 2 : 0) +
                0.1 * uniform());
  }
  BoostOptions options;
  const BoostedTrees model = Boost(x, y, options);
  double error = 0, spread = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    error += std::pow(Predict(model, x[i], model.trees.size()) - y[i], 2);
    spread += std::pow(y[i] - model.base, 2);
  }
  EXPECT_LT(error, 0.03 * spread);
  EXPECT_GT(model.gain[0] + model.gain[1] + model.gain[2], 50 * model.gain[5]);

  options.monotone[0] = 1;
  options.unused = 1 << 1;
  const BoostedTrees monotone = Boost(x, y, options);
  EXPECT_EQ(monotone.gain[1], 0);
  for (int i = 0; i < 100; ++i) {
    FeatureVector row = x[static_cast<size_t>(i)];
    double before = -100;
    for (row[0] = 0; row[0] <= 1; row[0] += 0.02) {
      const double here = Predict(monotone, row, monotone.trees.size());
      EXPECT_GE(here, before - 1e-12);
      before = here;
    }
  }
}

// Traces whose KL at every variant is a known function of the prompt: exp(level + harm + noise).
TraceSet Planted(int prompts, double effect, double noise, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  TraceSet set;
  for (int v = 0; v < 5; ++v) {
    const double bits = v == 4 ? 8 : 2 + v;
    set.variants.push_back({absl::StrCat("q", bits), std::log2(bits) / 4, bits,
                            static_cast<uint64_t>(bits * 1e6), v == 4 ? 0 : 0.4 * std::exp(-v)});
  }
  for (int i = 0; i < prompts; ++i) {
    PromptTrace& p = set.prompts.emplace_back();
    p.source = absl::StrCat("source ", i % 40);
    p.text.bytes =
        static_cast<int64_t>(std::exp(8.0 * static_cast<double>(random() >> 11) * 0x1p-53));
    p.text.has_code = random() % 2 == 0;
    p.positions = 10;
    const double harm = effect * (std::log1p(static_cast<double>(p.text.bytes)) - 4) / 2 +
                        effect * (p.text.has_code ? 0.7 : -0.7) + noise * normal(random);
    std::vector<double> luck(10);
    for (double& u : luck) u = static_cast<double>(random() >> 11) * 0x1p-53;
    for (int v = 0; v < 5; ++v) {
      const double kl = v == 4 ? 0 : 0.4 * std::exp(-v + harm);
      for (const double u : luck) p.draws.push_back(u < 0.5 * kl ? 8 : 7);
      for (int t = 0; t < 10; ++t) {
        p.kl.push_back(static_cast<float>(kl));
        p.entropy.push_back(static_cast<float>(2 + harm));
        p.agrees.push_back(v == 4 || t > 2);
      }
    }
  }
  return set;
}

TEST(RouterFit, FindsPlantedHarmAndIsCalibrated) {
  const auto fit = FitPredictor(Planted(1200, 0.8, 0.3, 1), {});
  ASSERT_TRUE(fit.ok()) << fit.status();
  const FitReport& r = fit->report;
  EXPECT_GT(r.rank_correlation, 0.85);
  EXPECT_LT(r.calibration_error, 0.25);
  ASSERT_GE(r.features.size(), 2u);
  EXPECT_THAT((std::vector<std::string>{r.features[0].name, r.features[1].name}),
              testing::UnorderedElementsAre("bytes", "code"));
  EXPECT_LT(r.features[0].without, r.rank_correlation - 0.1);
  EXPECT_EQ(r.reliability.size(), 10u);
  EXPECT_LT(r.reliability.front().measured, r.reliability.back().measured / 3);
  EXPECT_THAT(fit->predictor->parts().version, testing::StartsWith("trained-"));
  EXPECT_THAT(fit->predictor->parts().report, HasSubstr("rank_correlation"));
  // The same traces give the same router, to the letter.
  EXPECT_EQ(FitPredictor(Planted(1200, 0.8, 0.3, 1), {})->predictor->ToJson(),
            fit->predictor->ToJson());
}

// Guesses are planted to be wrong for half of what two variants are apart.
TEST(RouterFit, LearnsHowOftenGuessesAreRight) {
  const auto fit = FitPredictor(Planted(4000, 0, 0, 3), {});
  ASSERT_TRUE(fit.ok()) << fit.status();
  EXPECT_NEAR(fit->predictor->parts().wrong_power, 1, 0.1);
  EXPECT_NEAR(fit->predictor->RightGuesses(2, 8), 0.8, 0.01);
  EXPECT_NEAR(fit->predictor->RightGuesses(3, 4), 1 - 0.2 * (std::exp(-1) - std::exp(-2)), 0.01);
  EXPECT_LT(fit->report.guess_error, 0.005);
  TraceSet old = Planted(200, 0, 0.1, 3);
  for (PromptTrace& p : old.prompts) p.draws.clear();
  EXPECT_FALSE(FitPredictor(old, {})->predictor->KnowsGuesses());
}

TEST(RouterFit, PretendsNothingWhereThereIsNothing) {
  const auto fit = FitPredictor(Planted(800, 0, 0.5, 2), {});
  ASSERT_TRUE(fit.ok()) << fit.status();
  EXPECT_LT(std::abs(fit->report.rank_correlation), 0.15);
  const auto q = fit->predictor->quantiles();
  EXPECT_LT(q.back() - q.front(), 0.5);
}

TEST(RouterFit, RefusesWhatTeachesNothing) {
  const auto refused = [](const TraceSet& set, const char* why) {
    const auto fit = FitPredictor(set, {});
    EXPECT_EQ(fit.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(fit.status().message()), HasSubstr(why));
  };
  refused(Planted(99, 1, 1, 3), "at least 100");
  TraceSet one_source = Planted(200, 1, 1, 3);
  for (PromptTrace& p : one_source.prompts) p.source = "the same";
  refused(one_source, "sources");
  TraceSet equal = Planted(200, 1, 1, 3);
  equal.variants[1].bits_per_weight = equal.variants[0].bits_per_weight;
  refused(equal, "no finer");
}

TEST(RouterCurves, ARouterThatKnowsBeatsStaticAndOneThatDoesNotDoesNot) {
  router::RouterConfig config;
  config.predictor = FitPredictor(Planted(1200, 0.8, 0.3, 1), {})->predictor;
  const auto good = EvaluateRouter(Planted(600, 0.8, 0.3, 9), config, {.resamples = 200});
  ASSERT_TRUE(good.ok()) << good.status();
  EXPECT_EQ(good->levels.size(), 3u);
  for (const LevelResult& l : good->levels) {
    EXPECT_GT(l.gain, 0.1) << l.budget;
    EXPECT_GT(l.gain_low, 0) << l.budget;
    EXPECT_LE(l.gain_low, l.gain);
    EXPECT_GE(l.gain_high, l.gain);
    EXPECT_LE(l.oracle_kl, l.router.kl * 1.02) << l.budget;
    EXPECT_LT(l.static_kl, l.random_kl) << l.budget;
    EXPECT_NEAR(l.router.bits, l.budget, 0.3);
  }
  EXPECT_GT(good->rank_correlation, 0.85);
  ASSERT_EQ(good->curves.size(), 5u);
  EXPECT_EQ(good->curves[0].name, "router");
  EXPECT_GT(good->curves[0].apgr, good->curves[1].apgr);         // than static
  EXPECT_NEAR(good->curves[2].apgr, 0.5, 1e-6);                  // random
  EXPECT_GE(good->curves[3].apgr + 1e-3, good->curves[0].apgr);  // oracle
  EXPECT_LE(good->curves[0].cpt80, good->curves[1].cpt80);

  const auto bad = EvaluateRouter(Planted(600, 0, 0.5, 10), config, {.resamples = 200});
  ASSERT_TRUE(bad.ok());
  for (const LevelResult& l : bad->levels) EXPECT_LE(l.gain_low, 0.02) << l.budget;
  EXPECT_EQ(EvaluateRouter(Planted(600, 0, 1, 10), {}, {}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(RouterCurves, GuessesMakeFinerVariantsCheaper) {
  router::RouterConfig config;
  config.predictor = FitPredictor(Planted(1200, 0.8, 0.3, 1), {})->predictor;
  TraceSet test = Planted(600, 0.8, 0.3, 9);
  const CurveOptions options{.levels = {3.5}, .policy = {}, .most_drafts = 4, .resamples = 100};
  const auto guessing = EvaluateRouter(test, config, options);
  ASSERT_TRUE(guessing.ok()) << guessing.status();
  ASSERT_EQ(guessing->curves.size(), 6u);
  EXPECT_EQ(guessing->curves[2].name, "guessing");
  EXPECT_GT(guessing->curves[2].apgr, guessing->curves[1].apgr);
  ASSERT_EQ(guessing->drafted.size(), 5u);
  EXPECT_TRUE(guessing->drafted[0].draft.empty());
  const auto& finest = guessing->drafted[4];
  EXPECT_FALSE(finest.draft.empty());
  EXPECT_LT(finest.bits, 6);  // of 8
  EXPECT_NEAR(finest.bits / finest.expected_bits, 1, 0.1);
  EXPECT_NEAR(finest.right, finest.expected_right, 0.05);
  const LevelResult& level = guessing->levels[0];
  EXPECT_NEAR(level.router.bits, 3.5, 0.5);
  EXPECT_LT(level.guessing_kl, level.static_kl);
  EXPECT_LT(level.router.kl, level.guessing_kl);
  EXPECT_GT(level.gain_low, 0.25);

  test.prompts[3].draws.clear();
  const auto old = EvaluateRouter(test, config, options);
  EXPECT_EQ(old.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(old.status().message()), HasSubstr("measure them again"));
}

TEST(RouterCurves, RankCorrelationSharesRanksOfTies) {
  EXPECT_NEAR(RankCorrelation({1, 2, 3, 4}, {10, 20, 30, 45}), 1, 1e-12);
  EXPECT_NEAR(RankCorrelation({1, 2, 3, 4}, {4, 3, 2, 1}), -1, 1e-12);
  EXPECT_NEAR(RankCorrelation({1, 1, 2, 2}, {1, 2, 1, 2}), 0, 1e-12);
  EXPECT_EQ(RankCorrelation({1, 1, 1}, {1, 2, 3}), 0);
}

TEST(Chart, IsAnSvgOfItsLines) {
  const std::string svg = LineChart("Title", "x", "y", {{"one", {{2, 0.1}, {4, 0.01}, {5, 0}}}});
  EXPECT_THAT(svg, testing::StartsWith("<svg"));
  EXPECT_THAT(svg, HasSubstr("Title"));
  EXPECT_THAT(svg, HasSubstr("points='70.0,40.0 690.0,400.0 '"));
  EXPECT_THAT(LineChart("empty", "x", "y", {}), HasSubstr("</svg>"));
}

}  // namespace
}  // namespace lift
