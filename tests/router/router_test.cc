#include "router/router.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "absl/strings/str_cat.h"

namespace lift::router {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

// What calibration of a small model measures.
std::vector<VariantView> FiveVariants() {
  return {{"q2.0", 0.25, 2, 0.45, 40},
          {"q3.0", 0.396, 3, 0.2, 55},
          {"q4.0", 0.5, 4, 0.05, 70},
          {"q6.0", 0.646, 6, 0.004, 100},
          {"full", 1, 16, 0, 270}};
}

Decision RouteText(std::string_view text, const PrecisionRequest& request = {},
                   double pressure = 0) {
  const auto variants = FiveVariants();
  auto decision = Route(ExtractTextFeatures(text), {}, request, variants, {pressure});
  EXPECT_TRUE(decision.ok()) << decision.status();
  return decision.value_or(Decision{});
}

constexpr std::string_view kProof =
    "Prove that the square root of 2 is irrational, step by step, and compare two methods.";
constexpr std::string_view kCode =
    "Write a Python function that merges overlapping intervals, with tests for the corner cases.";

TEST(Route, EasyIsCoarseAndHardIsFine) {
  EXPECT_EQ(RouteText("Hi!").variant, 0);
  EXPECT_EQ(RouteText("What is the capital of France?").variant, 0);
  EXPECT_EQ(RouteText("¿Cuál es la capital de Francia?").variant, 0);
  EXPECT_EQ(RouteText("Thanks, bye").variant, 0);
  EXPECT_GE(RouteText("Explain why the sky is blue.").variant, 1);
  EXPECT_LT(RouteText("Explain why the sky is blue.").variant, 4);
  EXPECT_GE(RouteText(kProof).variant, 3);
  EXPECT_GE(RouteText(kCode).variant, 3);
  EXPECT_GE(RouteText("Beweise, dass die Wurzel aus 2 irrational ist, und vergleiche zwei Wege "
                      "Schritt für Schritt.")
                .variant,
            2);
  EXPECT_GE(RouteText("请一步一步证明根号2是无理数，并比较两种方法。").variant, 2);
}

TEST(Route, AutoLeavesUnfitVariantsToThoseWhoPinThem) {
  auto variants = FiveVariants();
  variants[0].kl = 1.3;
  for (double pressure : {0.0, 1.0}) {
    const auto easy = Route(ExtractTextFeatures("Hi!"), {}, {}, variants, {pressure});
    ASSERT_TRUE(easy.ok());
    EXPECT_EQ(easy->variant, 1);
  }
  PrecisionRequest pinned;
  pinned.mode = Mode::kPinned;
  pinned.variant = "q2.0";
  EXPECT_EQ(Route(ExtractTextFeatures("Hi!"), {}, pinned, variants, {})->variant, 0);
  for (VariantView& v : variants) v.kl = v.kl * 10 + 0.6;  // all unfit: the scale spans them all
  EXPECT_EQ(Route(ExtractTextFeatures("Hi!"), {}, {}, variants, {})->variant, 0);
  EXPECT_GE(Route(ExtractTextFeatures(kProof), {}, {}, variants, {})->variant, 2);
}

TEST(Route, ManyPossibleOpeningsDoNotMakeSmallTalkHard) {
  // As measured after such prompts with their chat template on a small instruction model.
  const auto variants = FiveVariants();
  const PrefillSignals unsure{.available = true,
                              .prompt_tokens = 37,
                              .mean_nll = 0,
                              .last_entropy = 4.7,
                              .last_margin = 0.01};
  for (const char* text :
       {"Hi!", "What is the capital of France?", "Thanks, bye", "Name three fruits."}) {
    const auto d = Route(ExtractTextFeatures(text), unsure, {}, variants, {});
    ASSERT_TRUE(d.ok());
    EXPECT_EQ(d->variant, 0) << text << d->score;
    EXPECT_LT(d->score, 0.06) << text;
  }
}

TEST(Route, ExplanationIsOneReadableSentence) {
  for (const std::string_view text : {std::string_view("Hi!"), kProof, kCode}) {
    const Decision d = RouteText(text);
    EXPECT_THAT(d.explanation, StartsWith("Complexity 0."));
    EXPECT_EQ(d.explanation.back(), '.');
    EXPECT_EQ(d.explanation.find('\n'), std::string::npos);
    EXPECT_THAT(d.explanation, HasSubstr(FiveVariants()[d.variant].name));
  }
  EXPECT_THAT(RouteText(kProof).explanation, HasSubstr("reasoning words"));
  EXPECT_THAT(RouteText(kCode).explanation, HasSubstr("code"));
}

TEST(Route, PinnedIsHonouredOrRefused) {
  PrecisionRequest request{.mode = Mode::kPinned, .variant = "q3.0"};
  EXPECT_EQ(RouteText(kProof, request).variant, 1);
  EXPECT_EQ(RouteText("Hi!", request).reason, Reason::kPinned);
  EXPECT_EQ(RouteText("Hi!", request, 1.0).variant, 1);  // load never moves a pinned request

  const auto variants = FiveVariants();
  request.variant = "q9";
  const auto unknown = Route({}, {}, request, variants, {});
  EXPECT_EQ(unknown.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(unknown.status().message()), HasSubstr("q2.0, q3.0, q4.0, q6.0, full"));

  request.variant = "q3.0";
  request.min_lambda = 0.5;
  const auto below = Route({}, {}, request, variants, {});
  EXPECT_EQ(below.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(below.status().message()), StartsWith("PRECISION_FLOOR_UNAVAILABLE: "));
  request.allow_fallback = true;
  const Decision fallback = RouteText("Hi!", request);
  EXPECT_EQ(fallback.variant, 2);
  EXPECT_EQ(fallback.reason, Reason::kFallback);
  EXPECT_EQ(fallback.fallback_from, "q3.0");
}

TEST(Route, FloorRaisesOrRefuses) {
  const Decision lambda = RouteText("Hi!", {.min_lambda = 0.5});
  EXPECT_EQ(lambda.variant, 2);
  EXPECT_EQ(lambda.reason, Reason::kFloor);
  const Decision loss = RouteText("Hi!", {.max_quality_loss = 0.01});
  EXPECT_EQ(loss.variant, 3);
  EXPECT_EQ(loss.reason, Reason::kFloor);
  EXPECT_EQ(RouteText(kProof, {.min_lambda = 0.3}).reason, Reason::kAuto);  // met anyway

  auto variants = FiveVariants();
  variants.pop_back();
  const auto refused = Route({}, {}, {.min_lambda = 0.9}, variants, {});
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.status().message()), StartsWith("PRECISION_FLOOR_UNAVAILABLE: "));
  const auto fallback = Route({}, {}, {.min_lambda = 0.9, .allow_fallback = true}, variants, {});
  ASSERT_TRUE(fallback.ok());
  EXPECT_EQ(fallback->variant, 3);
  EXPECT_EQ(fallback->reason, Reason::kFallback);
}

TEST(Route, LoadLowersAutoButNeverUnderTheFloor) {
  const Decision calm = RouteText(kProof, {}, 0.4);
  const Decision busy = RouteText(kProof, {}, 1.0);
  EXPECT_EQ(calm.reason, Reason::kAuto);
  EXPECT_LT(busy.variant, calm.variant);
  EXPECT_EQ(busy.reason, Reason::kLoad);
  EXPECT_THAT(busy.explanation, HasSubstr("queue"));
  const Decision floored = RouteText(kProof, {.min_lambda = 0.6}, 1.0);
  EXPECT_EQ(floored.variant, 3);
  EXPECT_EQ(RouteText("Hi!", {}, 1.0).reason, Reason::kAuto);  // nothing left to lower
}

TEST(Route, RefusesImpossibleNumbers) {
  const auto variants = FiveVariants();
  for (const double bad : {-0.1, 1.1, std::nan("")}) {
    const auto d = Route({}, {}, {.min_lambda = bad}, variants, {});
    EXPECT_EQ(d.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(d.status().message()), HasSubstr("min_lambda"));
  }
  for (const double bad : {-0.1, HUGE_VAL, std::nan("")}) {
    const auto d = Route({}, {}, {.max_quality_loss = bad}, variants, {});
    EXPECT_EQ(d.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(d.status().message()), HasSubstr("max_quality_loss"));
  }
  EXPECT_EQ(Route({}, {}, {}, {}, {}).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(Route, UnmeasuredVariantsUseTheLambdaScale) {
  auto variants = FiveVariants();
  for (VariantView& v : variants) v.kl = -1;
  const auto easy = Route(ExtractTextFeatures("Hi!"), {}, {}, variants, {});
  const auto hard = Route(ExtractTextFeatures(kProof), {}, {}, variants, {});
  ASSERT_TRUE(easy.ok() && hard.ok());
  EXPECT_EQ(easy->variant, 0);
  EXPECT_GE(hard->variant, 3);
  // A loss cap cannot be shown to hold for what was never measured; only the source meets it.
  const auto capped = Route({}, {}, {.max_quality_loss = 0.5}, variants, {});
  ASSERT_TRUE(capped.ok());
  EXPECT_EQ(capped->variant, 4);
}

TEST(Route, BitsThatBuyNothingAreNotSpent) {
  std::vector<VariantView> variants = {
      {"q4.0", 0.5, 4, 0.05, 70}, {"q8.0", 0.75, 8, 0.0004, 130}, {"full", 1, 16, 0, 270}};
  PrefillSignals unsure{
      .available = true, .prompt_tokens = 4000, .mean_nll = 6, .last_entropy = 8, .last_margin = 0};
  const auto d = Route(ExtractTextFeatures(kProof), unsure, {}, variants, {});
  ASSERT_TRUE(d.ok());
  EXPECT_EQ(d->variant, 1);
}

struct RandomCase {
  TextFeatures text;
  PrefillSignals prefill;
  PrecisionRequest request;
  std::vector<VariantView> variants;
  SystemState state;
};

RandomCase MakeCase(std::mt19937_64& rng) {
  const auto uniform = [&] { return std::uniform_real_distribution<double>(0, 1)(rng); };
  const auto count = [&](int64_t most) { return static_cast<int64_t>(rng() % (most + 1)); };
  const auto coin = [&] { return rng() % 2 == 0; };
  RandomCase c;
  c.text = {count(4000), count(800), count(40), count(30), 12 * uniform(),
            uniform(),   uniform(),  uniform(), uniform(), coin(),
            coin(),      coin(),     coin(),    count(5),  1 + count(9)};
  c.prefill = {coin(), count(4000), 10 * uniform(), 10 * uniform(), uniform()};
  const bool measured = rng() % 4 != 0;
  const int n = 1 + static_cast<int>(rng() % 6);
  double lambda = 0, kl = 2;
  for (int i = 0; i < n; ++i) {
    lambda += (1 - lambda) * uniform() * 0.6;
    kl *= uniform();
    c.variants.push_back({absl::StrCat("v", i), lambda, 16 * lambda, measured ? kl : -1, 1});
  }
  if (coin()) c.variants.push_back({"full", 1, 16, measured ? 0.0 : -1, 1});
  c.request.mode = rng() % 3 == 0 ? Mode::kPinned : Mode::kAuto;
  c.request.variant = absl::StrCat("v", rng() % 7);
  if (coin()) c.request.min_lambda = uniform();
  if (rng() % 3 == 0) c.request.max_quality_loss = uniform();
  c.request.allow_fallback = rng() % 4 == 0;
  c.state.queue_pressure = coin() ? 0 : uniform();
  return c;
}

bool Meets(const VariantView& v, const PrecisionRequest& r) {
  const double kl = v.kl < 0 && v.lambda >= 1 ? 0 : v.kl;
  return v.lambda >= r.min_lambda &&
         (r.max_quality_loss == 0 || (kl >= 0 && kl <= r.max_quality_loss));
}

TEST(RouteProperty, NeverBelowAFloorAndDeterministic) {
  std::mt19937_64 rng(7);
  for (int trial = 0; trial < 100000; ++trial) {
    const RandomCase c = MakeCase(rng);
    const auto d = Route(c.text, c.prefill, c.request, c.variants, c.state);
    const auto again = Route(c.text, c.prefill, c.request, c.variants, c.state);
    ASSERT_EQ(d.status(), again.status());
    const auto meets = [&](const VariantView& v) { return Meets(v, c.request); };
    if (!d.ok()) {
      if (c.request.mode == Mode::kAuto) {
        ASSERT_TRUE(std::none_of(c.variants.begin(), c.variants.end(), meets));
        ASSERT_FALSE(c.request.allow_fallback);
      }
      continue;
    }
    ASSERT_EQ(d->variant, again->variant);
    ASSERT_EQ(d->explanation, again->explanation);
    ASSERT_TRUE(d->score >= 0 && d->score <= 1);
    ASSERT_TRUE(d->variant >= 0 && d->variant < static_cast<int>(c.variants.size()));
    if (d->reason != Reason::kFallback) {
      ASSERT_TRUE(meets(c.variants[d->variant])) << trial;
    } else {
      ASSERT_TRUE(c.request.allow_fallback);
    }
    if (c.request.mode == Mode::kPinned && d->reason == Reason::kPinned) {
      ASSERT_EQ(c.variants[d->variant].name, c.request.variant);
    }
  }
}

TEST(RouteProperty, LoadNeverRaisesPrecision) {
  std::mt19937_64 rng(9);
  for (int trial = 0; trial < 20000; ++trial) {
    RandomCase c = MakeCase(rng);
    c.state.queue_pressure = 0;
    const auto calm = Route(c.text, c.prefill, c.request, c.variants, c.state);
    c.state.queue_pressure = std::uniform_real_distribution<double>(0, 1.2)(rng);
    const auto busy = Route(c.text, c.prefill, c.request, c.variants, c.state);
    ASSERT_EQ(calm.ok(), busy.ok());
    if (!calm.ok()) continue;
    ASSERT_LE(busy->variant, calm->variant);
    if (c.request.mode == Mode::kPinned) {
      ASSERT_EQ(busy->variant, calm->variant);
    }
  }
}

// Raises one signal; what a signal says about difficulty is documented in README.md.
void Harden(int signal, double by, TextFeatures& t, PrefillSignals& p) {
  const auto n = static_cast<int64_t>(std::ceil(by * 20));
  switch (signal) {
    case 0:
      t.bytes += n * 100;
      break;
    case 1:
      t.words += n;
      break;
    case 2:
      t.lines += n;
      break;
    case 3:
      t.sentences += n;
      break;
    case 4:
      t.mean_word_length += by * 5;
      break;
    case 5:
      t.distinct_word_ratio = std::min(1.0, t.distinct_word_ratio + by);
      break;
    case 6:
      t.digit_ratio = std::min(1.0, t.digit_ratio + by);
      break;
    case 7:
      t.symbol_ratio = std::min(1.0, t.symbol_ratio + by);
      break;
    case 8:
      t.non_ascii_ratio = std::min(1.0, t.non_ascii_ratio + by);
      break;
    case 9:
      t.has_code = true;
      break;
    case 10:
      t.has_math = true;
      break;
    case 11:
      t.has_list = true;
      break;
    case 12:
      t.is_question = true;
      break;
    case 13:
      t.reasoning_words += n;
      break;
    case 14:
      t.turns += n;
      break;
    case 15:
      p.prompt_tokens += n * 20;
      break;
    case 16:
      p.mean_nll += by * 3;
      break;
    case 17:
      p.last_entropy += by * 3;
      break;
    default:
      p.last_margin = std::max(0.0, p.last_margin - by);
      break;
  }
}

TEST(RouteProperty, MonotoneInEachSignal) {
  std::mt19937_64 rng(13);
  for (int trial = 0; trial < 40000; ++trial) {
    RandomCase c = MakeCase(rng);
    c.request.mode = Mode::kAuto;
    const double before = ComplexityScore(c.text, c.prefill);
    const auto easy = Route(c.text, c.prefill, c.request, c.variants, c.state);
    Harden(trial % 19, std::uniform_real_distribution<double>(0, 1)(rng), c.text, c.prefill);
    const double after = ComplexityScore(c.text, c.prefill);
    ASSERT_GE(after, before - 1e-12) << "signal " << trial % 19;
    const auto hard = Route(c.text, c.prefill, c.request, c.variants, c.state);
    ASSERT_EQ(easy.ok(), hard.ok());
    // With a KL cap that is not monotone in the index the nearest allowed variant may lie below,
    // never otherwise.
    if (easy.ok() && c.request.max_quality_loss == 0) {
      ASSERT_GE(hard->variant, easy->variant);
    }
  }
}

TEST(RouteProperty, EverySignalMoves) {
  for (int signal = 0; signal < 19; ++signal) {
    TextFeatures text = ExtractTextFeatures(
        "A plain sentence of some length that asks for nothing in particular but has words enough "
        "to count, and then some more of them.");
    PrefillSignals prefill{.available = true,
                           .prompt_tokens = 100,
                           .mean_nll = 1,
                           .last_entropy = 3,
                           .last_margin = 0.3};
    text.distinct_word_ratio = 0.8;
    const double before = ComplexityScore(text, prefill);
    Harden(signal, 0.9, text, prefill);
    EXPECT_GT(ComplexityScore(text, prefill), before) << "signal " << signal;
  }
}

TEST(TextFeaturesTest, CountsAcrossScripts) {
  const TextFeatures en = ExtractTextFeatures("Hello there. How are you?\nFine, I hope!", 3);
  EXPECT_EQ(en.words, 8);
  EXPECT_EQ(en.sentences, 3);
  EXPECT_EQ(en.lines, 2);
  EXPECT_EQ(en.turns, 3);
  EXPECT_TRUE(en.is_question);
  EXPECT_FALSE(en.has_code || en.has_math || en.has_list);
  const TextFeatures zh = ExtractTextFeatures("法国的首都是哪里？");
  EXPECT_EQ(zh.words, 4);
  EXPECT_EQ(zh.sentences, 1);
  EXPECT_TRUE(zh.is_question);
  EXPECT_GT(zh.non_ascii_ratio, 0.9);
  EXPECT_EQ(ExtractTextFeatures("ПОЧЕМУ? Докажи!").reasoning_words, 2);
  EXPECT_EQ(ExtractTextFeatures("").bytes, 0);
  EXPECT_EQ(ExtractTextFeatures("").sentences, 0);
}

TEST(TextFeaturesTest, FindsCodeMathAndLists) {
  for (const char* code : {"Fix this: ```x```", "int main() { return f(); }", "write it in Python",
                           "why does `a && b` not compile", "SELECT * FROM users"}) {
    EXPECT_TRUE(ExtractTextFeatures(code).has_code) << code;
  }
  for (const char* plain : {"Tell me a story about a cat.", "What is a good name for a dog?"}) {
    const TextFeatures f = ExtractTextFeatures(plain);
    EXPECT_FALSE(f.has_code || f.has_math || f.has_list) << plain;
  }
  for (const char* math : {"What is 17 * 23?", "solve x^2 = 4", "\\frac{1}{2}", "∫ f dx",
                           "the probability of rain", "12+3"}) {
    EXPECT_TRUE(ExtractTextFeatures(math).has_math) << math;
  }
  EXPECT_FALSE(ExtractTextFeatures("and/or, 24/7-ish text").has_code);
  EXPECT_TRUE(ExtractTextFeatures("Do:\n1. this\n2. that").has_list);
  EXPECT_TRUE(ExtractTextFeatures("- a thing\n- another").has_list);
  EXPECT_FALSE(ExtractTextFeatures("one - two\n3 bears").has_list);
}

TEST(TextFeaturesTest, SurvivesAnyBytes) {
  std::mt19937_64 rng(3);
  for (int trial = 0; trial < 2000; ++trial) {
    std::string text(rng() % 60, ' ');
    for (char& c : text) c = static_cast<char>(rng());
    const double score = ComplexityScore(ExtractTextFeatures(text), {});
    ASSERT_TRUE(score >= 0 && score <= 1);
  }
}

TEST(Names, OfReasons) {
  EXPECT_EQ(ReasonName(Reason::kAuto), "AUTO");
  EXPECT_EQ(ReasonName(Reason::kFloor), "FLOOR");
  EXPECT_EQ(ReasonName(Reason::kLoad), "LOAD");
  EXPECT_EQ(ReasonName(Reason::kPinned), "PINNED");
  EXPECT_EQ(ReasonName(Reason::kFallback), "FALLBACK");
  EXPECT_EQ(ReasonName(Reason::kEscalated), "ESCALATED");
}

std::vector<float> Peaked(float height) {
  std::vector<float> logits(100, 0.0F);
  logits[7] = height;
  return logits;
}

TEST(Escalation, RisesStepByStepWhileTheDistributionsAreFlat) {
  const std::vector<VariantView> variants = {
      {"a", 0.3, 2, 0.4}, {"b", 0.5, 4, 0.05}, {"c", 0.6, 6, 0.0005}, {"d", 1, 16, 0}};
  Escalation rising(3);
  std::vector<int> seen;
  int variant = 0;
  for (int i = 0; i < 20; ++i) {
    variant = rising.Next(variant, Peaked(0), {}, variants);  // log 100 = 4.6 nats
    seen.push_back(variant);
  }
  // Four tokens at each; nobody could tell "c" from "d".
  EXPECT_EQ(std::vector<int>(seen.begin(), seen.begin() + 9),
            (std::vector<int>{0, 0, 0, 1, 1, 1, 1, 2, 2}));
  EXPECT_EQ(variant, 2);
}

TEST(Escalation, StaysWhereTheModelIsSureOrTheRequestPinnedOrThePolicyOff) {
  const std::vector<VariantView> variants = {{"a", 0.3, 2, 0.4}, {"b", 0.5, 4, 0.05}};
  Escalation sure(3), off(0), pinned(3), spike(3);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(sure.Next(0, Peaked(12), {}, variants), 0);
    EXPECT_EQ(off.Next(0, Peaked(0), {}, variants), 0);
    EXPECT_EQ(pinned.Next(0, Peaked(0), {.mode = Mode::kPinned, .variant = "a"}, variants), 0);
    EXPECT_EQ(spike.Next(0, Peaked(i % 5 == 4 ? 0 : 12), {}, variants), 0);  // one flat token
  }
  EXPECT_EQ(Escalation(3).Next(1, Peaked(0), {}, variants), 1);  // nothing finer
}

}  // namespace
}  // namespace lift::router
