#include "server/engine/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <set>

#include "server/engine/random.h"

namespace lift {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<float> RandomLogits(int n, uint64_t seed, float spread = 3) {
  std::mt19937_64 rng(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> logits(n);
  for (float& x : logits) x = normal(rng);
  return logits;
}

std::vector<double> Softmax(std::span<const float> logits, double temperature) {
  std::vector<double> p(logits.size());
  const double best = *std::max_element(logits.begin(), logits.end());
  for (size_t i = 0; i < p.size(); ++i) p[i] = std::exp((logits[i] - best) / temperature);
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) x /= sum;
  return p;
}

// Ids of one draw at each of `draws` steps.
std::vector<int> Histogram(std::span<const float> logits, const SamplingParams& params, int draws) {
  std::vector<int> counts(logits.size());
  for (int step = 0; step < draws; ++step) ++counts[Sample(logits, params, {}, step).id];
  return counts;
}

double ChiSquare(const std::vector<int>& counts, const std::vector<double>& p, int draws) {
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    if (p[i] == 0) {
      EXPECT_EQ(counts[i], 0);
      continue;
    }
    sum += (counts[i] - draws * p[i]) * (counts[i] - draws * p[i]) / (draws * p[i]);
  }
  return sum;
}

// The filters by full sort, as the header words them: an oracle that shares no code.
std::vector<double> FilteredOracle(std::span<const float> logits, const SamplingParams& params) {
  std::vector<double> p = Softmax(logits, params.temperature);
  std::vector<int> order(p.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  size_t keep = order.size();
  if (params.top_k > 0) keep = std::min<size_t>(keep, params.top_k);
  double total = 0, sum = 0;
  for (size_t i = 0; i < keep; ++i) total += p[order[i]];
  if (params.top_p < 1) {
    size_t n = 0;
    while (n < keep && sum < params.top_p * total) sum += p[order[n++]];
    keep = n;
  }
  const double floor = params.min_p * p[order[0]];
  std::vector<double> out(p.size());
  for (size_t i = 0; i < keep; ++i) out[order[i]] = p[order[i]] >= floor ? p[order[i]] : 0;
  const double kept = std::accumulate(out.begin(), out.end(), 0.0);
  for (double& x : out) x /= kept;
  return out;
}

TEST(Random, PhiloxKnownAnswers) {  // from the Random123 distribution's kat_vectors
  EXPECT_THAT(Philox4x32({0, 0, 0, 0}, {0, 0}),
              testing::ElementsAre(0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u));
  EXPECT_THAT(
      Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
      testing::ElementsAre(0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u));
}

TEST(Sampler, GreedyTakesTheLowestIdAmongEquals) {
  const std::vector<float> logits = {1, 5, 3, 5, 5};
  EXPECT_EQ(Sample(logits, {}, {}, 0).id, 1);
  EXPECT_EQ(Sample(logits, {}, {}, 0, std::vector<int32_t>{1}).id, 3);
}

TEST(Sampler, SurvivesNanAndInfinity) {
  SamplingParams warm{.temperature = 0.7, .top_k = 3, .top_p = 0.9, .min_p = 0.01};
  warm.top_logprobs = 3;
  const std::vector<float> mixed = {kNan, -kInf, 2, kNan, kInf};
  for (int step = 0; step < 50; ++step) {
    const SampledToken token = Sample(mixed, warm, {}, step);
    EXPECT_EQ(token.id, 4);
    EXPECT_FLOAT_EQ(token.logprob, 0);
  }
  EXPECT_EQ(Sample(mixed, {}, {}, 0).id, 4);
  const std::vector<float> two = {kInf, 0, kInf};
  std::set<int32_t> seen;
  for (int step = 0; step < 50; ++step) seen.insert(Sample(two, {.temperature = 1}, {}, step).id);
  EXPECT_THAT(seen, testing::ElementsAre(0, 2));
  const std::vector<float> nothing = {kNan, -kInf, kNan};
  EXPECT_EQ(Sample(nothing, {}, {}, 0).id, -1);
  EXPECT_EQ(Sample(nothing, warm, {}, 0).id, -1);
  EXPECT_EQ(Sample(std::vector<float>{kNan, 1, -kInf}, {}, {}, 0).id, 1);
}

TEST(Sampler, SameSeedAndStepGiveTheSameToken) {
  const auto logits = RandomLogits(500, 1);
  const SamplingParams params{.temperature = 1.3, .top_p = 0.95, .seed = 77};
  for (int step = 0; step < 20; ++step) {
    EXPECT_EQ(Sample(logits, params, {}, step).id, Sample(logits, params, {}, step).id);
  }
  std::set<int32_t> over_seeds;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    over_seeds.insert(Sample(logits, {.temperature = 3, .seed = seed}, {}, 0).id);
  }
  EXPECT_GT(over_seeds.size(), 20u);
}

TEST(Sampler, DistributionPassesChiSquare) {
  constexpr int kDraws = 40000;
  const auto logits = RandomLogits(24, 5, 1);
  const std::vector<SamplingParams> cases = {
      {.temperature = 1, .seed = 1},
      {.temperature = 0.5, .seed = 2},
      {.temperature = 1, .top_k = 7, .seed = 3},
      {.temperature = 1.5, .top_p = 0.7, .seed = 4},
      {.temperature = 1, .min_p = 0.2, .seed = 5},
      {.temperature = 1.2, .top_k = 15, .top_p = 0.8, .min_p = 0.1, .seed = 6},
  };
  for (const SamplingParams& params : cases) {
    const auto p = FilteredOracle(logits, params);
    const auto counts = Histogram(logits, params, kDraws);
    const auto df =
        static_cast<double>(std::count_if(p.begin(), p.end(), [](double x) { return x > 0; }) - 1);
    // Normal approximation of the 99.99 % quantile; the seeds are fixed, so this cannot flake.
    EXPECT_LT(ChiSquare(counts, p, kDraws), df + 3.72 * std::sqrt(2 * df) + 8) << params.seed;
  }
}

// What guesses of a coarser variant live from.
TEST(Sampler, SimilarDistributionsDrawAlike) {
  constexpr int kVocab = 3000, kDraws = 4000;
  for (const float apart : {0.05F, 0.3F, 1.0F}) {
    const auto fine = RandomLogits(kVocab, 5, 2), noise = RandomLogits(kVocab, 6, apart);
    std::vector<float> coarse(fine);
    for (size_t i = 0; i < coarse.size(); ++i) coarse[i] += noise[i];
    const SamplingParams params{.temperature = 1, .seed = 8};
    const auto p = FilteredOracle(fine, params), q = FilteredOracle(coarse, params);
    double variation = 0;
    for (size_t i = 0; i < p.size(); ++i) variation += std::abs(p[i] - q[i]) / 2;
    int alike = 0;
    for (int step = 0; step < kDraws; ++step) {
      alike += Sample(fine, params, {}, step).id == Sample(coarse, params, {}, step).id;
    }
    // Three standard deviations of the count.
    const double least = (1 - variation) / (1 + variation), share = alike / double{kDraws};
    EXPECT_GT(share, least - 3 * std::sqrt(least * (1 - least) / kDraws)) << apart;
    EXPECT_LT(share, 1 - variation / 2);
  }
}

TEST(Sampler, FiltersKeepExactlyTheOraclesTokens) {
  std::mt19937_64 rng(11);
  for (int trial = 0; trial < 60; ++trial) {
    auto logits = RandomLogits(40, rng(), 1.5);
    for (float& x : logits) x = std::round(x * 2) / 2;  // many ties
    SamplingParams params{.temperature = 0.8 + 0.01 * static_cast<double>(rng() % 100)};
    if (trial % 2 == 0) params.top_k = 1 + static_cast<int64_t>(rng() % 50);
    if (trial % 3 != 0) params.top_p = 0.05 + 0.009 * static_cast<double>(rng() % 100);
    if (trial % 5 == 0) params.min_p = 0.01 * static_cast<double>(rng() % 60);
    params.seed = rng();
    const auto p = FilteredOracle(logits, params);
    const auto counts = Histogram(logits, params, 2500);
    for (size_t i = 0; i < p.size(); ++i) {
      if (p[i] == 0) {
        EXPECT_EQ(counts[i], 0) << "trial " << trial << " id " << i;
      }
      if (p[i] > 0.008) {
        EXPECT_GT(counts[i], 0) << "trial " << trial << " id " << i;
      }
    }
  }
}

TEST(Sampler, ManyTokensWithTopPOfALargeFlatVocabulary) {
  const auto logits = RandomLogits(50000, 3, 0.01F);
  const SamplingParams params{.temperature = 1, .top_p = 0.999, .seed = 9};
  for (int step = 0; step < 5; ++step) {
    const int32_t id = Sample(logits, params, {}, step).id;
    EXPECT_GE(id, 0);
    EXPECT_LT(id, 50000);
  }
  const SamplingParams wide{.temperature = 1, .top_k = 20000, .seed = 9};
  EXPECT_GE(Sample(logits, wide, {}, 0).id, 0);
}

TEST(Sampler, PenaltiesFollowTheirDefinitions) {
  TokenHistory history;
  history.AddPrompt(std::vector<int32_t>{0, 1});
  history.AddGenerated(2);
  history.AddGenerated(2);
  // Repetition: over prompt and generated; positive logits are divided, negative multiplied.
  SamplingParams repetition{.repetition_penalty = 2};
  EXPECT_EQ(Sample(std::vector<float>{4, 3, 3.5, 2.5}, repetition, history, 0).id, 3);
  EXPECT_EQ(Sample(std::vector<float>{-1, -4, -4, -1.9F}, repetition, history, 0).id, 3);
  EXPECT_EQ(Sample(std::vector<float>{-0.9F, -4, -4, -1.9F}, repetition, history, 0).id, 0);
  // Presence: once for what was generated, whatever the count; the prompt does not count.
  SamplingParams presence{.presence_penalty = 1};
  EXPECT_EQ(Sample(std::vector<float>{4, 0, 4.5F, 0}, presence, history, 0).id, 0);
  EXPECT_EQ(Sample(std::vector<float>{4, 0, 5.1F, 0}, presence, history, 0).id, 2);
  // Frequency: by the count.
  SamplingParams frequency{.frequency_penalty = 1};
  EXPECT_EQ(Sample(std::vector<float>{4, 0, 5.9F, 0}, frequency, history, 0).id, 0);
  EXPECT_EQ(Sample(std::vector<float>{4, 0, 6.1F, 0}, frequency, history, 0).id, 2);
}

TEST(Sampler, BiasAndBannedTokens) {
  const std::vector<float> logits = {1, 2, 3};
  SamplingParams params;
  params.logit_bias = {{0, 2.5F}, {2, -100}};
  EXPECT_EQ(Sample(logits, params, {}, 0).id, 0);
  EXPECT_EQ(Sample(logits, params, {}, 0, std::vector<int32_t>{0}).id, 1);
  params.temperature = 5;
  for (int step = 0; step < 200; ++step) {
    EXPECT_NE(Sample(logits, params, {}, step, std::vector<int32_t>{1}).id, 1);
  }
}

TEST(Sampler, LogprobsAreOfTheRawDistribution) {
  const auto logits = RandomLogits(64, 21);
  const auto p = Softmax(logits, 1);
  SamplingParams params{.temperature = 0.3, .top_k = 4, .repetition_penalty = 3, .seed = 4};
  params.top_logprobs = 5;
  TokenHistory history;
  history.AddPrompt(std::vector<int32_t>{1, 2, 3, 4, 5});
  const SampledToken token = Sample(logits, params, history, 0);
  EXPECT_NEAR(token.logprob, std::log(p[token.id]), 1e-5);
  ASSERT_EQ(token.top.size(), 5u);
  std::vector<double> sorted = p;
  std::sort(sorted.rbegin(), sorted.rend());
  for (size_t i = 0; i < 5; ++i) EXPECT_NEAR(token.top[i].logprob, std::log(sorted[i]), 1e-5);
  params.top_logprobs = 0;
  EXPECT_TRUE(Sample(logits, params, history, 0).top.empty());
  params.top_logprobs = 100;  // more than there are tokens
  EXPECT_EQ(Sample(logits, params, history, 0).top.size(), 64u);
}

TEST(Sampler, ValidateNamesTheField) {
  const auto message = [](const SamplingParams& params) {
    const absl::Status status = params.Validate(100);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  using testing::HasSubstr;
  EXPECT_TRUE(SamplingParams{}.Validate(100).ok());
  for (const double bad : {-0.1, 101.0, std::nan(""), HUGE_VAL}) {
    EXPECT_THAT(message({.temperature = bad}), HasSubstr("temperature"));
  }
  EXPECT_THAT(message({.top_k = -1}), HasSubstr("top_k"));
  for (const double bad : {0.0, -1.0, 1.01, std::nan("")}) {
    EXPECT_THAT(message({.top_p = bad}), HasSubstr("top_p"));
  }
  EXPECT_THAT(message({.min_p = 1.5}), HasSubstr("min_p"));
  EXPECT_THAT(message({.repetition_penalty = 0}), HasSubstr("repetition_penalty"));
  EXPECT_THAT(message({.presence_penalty = 3}), HasSubstr("presence_penalty"));
  EXPECT_THAT(message({.frequency_penalty = std::nan("")}), HasSubstr("frequency_penalty"));
  SamplingParams params;
  params.logit_bias = {{100, 1.0F}};
  EXPECT_THAT(message(params), HasSubstr("logit_bias"));
  params.logit_bias = {{5, kNan}};
  EXPECT_THAT(message(params), HasSubstr("logit_bias[5]"));
  params.logit_bias.clear();
  params.top_logprobs = 101;
  EXPECT_THAT(message(params), HasSubstr("top_logprobs"));
}

// Words may be fewer than the logits need; what they do not speak of is not allowed.
TEST(Sampler, MaskAllowsItsBitsAndAlsoTheOthersNamed) {
  std::mt19937_64 rng(6);
  for (int trial = 0; trial < 200; ++trial) {
    const int vocab = 1 + static_cast<int>(rng() % 300);
    const std::vector<float> logits = RandomLogits(vocab, rng());
    std::vector<uint64_t> words(rng() % 5);
    for (uint64_t& word : words) word = rng() % 3 == 0 ? 0 : rng() % 3 == 1 ? ~uint64_t{0} : rng();
    const std::vector<int32_t> also = {static_cast<int32_t>(rng() % 300), -1};
    const TokenMask mask{.words = words, .also = also};
    std::vector<int32_t> banned;
    for (int id = 0; id < vocab; ++id) {
      const auto word = static_cast<size_t>(id) / 64;
      const bool bit = word < words.size() && (words[word] >> (id % 64) & 1) != 0;
      if (!bit && id != also[0]) banned.push_back(id);
    }
    SamplingParams params;
    params.temperature = trial % 2;
    params.seed = rng();
    params.logit_bias = {{0, 2.0F}};
    params.top_k = rng() % 2 == 0 ? static_cast<int64_t>(rng() % 40) : 0;
    params.top_p = rng() % 2 == 0 ? 0.8 : 1;
    params.min_p = rng() % 4 == 0 ? 0.05 : 0;
    const int32_t masked = Sample(logits, params, {}, trial, {}, &mask).id;
    EXPECT_EQ(masked, Sample(logits, params, {}, trial, banned).id);
    if (banned.size() == logits.size()) {
      EXPECT_EQ(masked, -1);
    }
  }
}

}  // namespace
}  // namespace lift
