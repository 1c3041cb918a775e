// Evaluation and generation: windows, statistics against double-precision oracles, and what
// lift-eval generates.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "calibration/eval/evaluate.h"
#include "calibration/eval/generate.h"
#include "calibration/eval/logit_stats.h"
#include "calibration/eval/npy.h"
#include "tests/model/npy.h"
#include "tests/model/random_model.h"
#include "tests/model/runner.h"

namespace lift {
namespace {

using ::testing::ElementsAre;
using testing::RandomModel;

std::vector<int32_t> Tokens(size_t count) {
  std::mt19937 random(3);
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % 97);
  return tokens;
}

std::vector<double> LogSoftmax(std::span<const float> z) {
  double peak = -1e300, sum = 0;
  for (float x : z) peak = std::max(peak, static_cast<double>(x));
  for (float x : z) sum += std::exp(static_cast<double>(x) - peak);
  std::vector<double> out;
  for (float x : z) out.push_back(static_cast<double>(x) - peak - std::log(sum));
  return out;
}

double OracleKl(std::span<const float> p, std::span<const float> q) {
  const auto a = LogSoftmax(p), b = LogSoftmax(q);
  double kl = 0;
  for (size_t i = 0; i < a.size(); ++i) kl += std::exp(a[i]) * (a[i] - b[i]);
  return kl;
}

TEST(LogitStats, MatchDoublePrecision) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 4);
  for (size_t n : {size_t{1}, size_t{15}, size_t{16}, size_t{97}, size_t{513}, size_t{49152}}) {
    std::vector<float> p(n), q(n);
    for (size_t i = 0; i < n; ++i) p[i] = normal(random), q[i] = p[i] + 0.02f * normal(random);
    const LogitStats ps = ComputeLogitStats(p), qs = ComputeLogitStats(q);
    EXPECT_NEAR(static_cast<double>(p[0]) - ps.log_sum_exp, LogSoftmax(p)[0], 1e-5) << n;
    EXPECT_EQ(ps.best, std::max_element(p.begin(), p.end()) - p.begin());
    EXPECT_NEAR(KlDivergence(p, ps, q, qs), OracleKl(p, q), 1e-6) << n;
    EXPECT_EQ(KlDivergence(p, ps, p, ps), 0) << n;
  }
}

TEST(LogitStats, ExtremesStayFinite) {
  const std::vector<float> peaked = {1000, -1000, 0, -3e38f}, flat(4, -500.f);
  EXPECT_DOUBLE_EQ(ComputeLogitStats(peaked).log_sum_exp, 1000);
  EXPECT_NEAR(ComputeLogitStats(flat).log_sum_exp, -500 + std::log(4), 1e-6);
  EXPECT_EQ(ComputeLogitStats(flat).best, 0);  // ties: the lowest index
  EXPECT_NEAR(KlDivergence(peaked, ComputeLogitStats(peaked), flat, ComputeLogitStats(flat)),
              std::log(4), 1e-6);
}

TEST(Windows, CutWithAndWithoutBos) {
  ModelConfig config = testing::TinyConfig();
  const std::vector<int32_t> text = {10, 11, 12, 13, 14, 15, 16};
  const auto plain = CutWindows(config, text, 3);
  ASSERT_EQ(plain.size(), 2u);  // the last token alone has nothing to score
  EXPECT_THAT(plain[1], ElementsAre(13, 14, 15));
  config.add_bos = true;
  config.bos_token_id = 1;
  const auto bos = CutWindows(config, text, 3);
  ASSERT_EQ(bos.size(), 4u);
  EXPECT_THAT(bos[0], ElementsAre(1, 10, 11));
  EXPECT_THAT(bos[3], ElementsAre(1, 16));
  config.add_bos = false;
  config.max_context = 4;
  EXPECT_EQ(CutWindows(config, text, 1024)[0].size(), 4u);  // capped by the model
}

// Against logits of whole windows, longer than one slice of 128 rows.
// Of a window's tokens but the first, by logits [tokens][97].
double NllOf(const std::vector<int32_t>& window, const std::vector<float>& logits) {
  double nll = 0;
  for (size_t t = 0; t + 1 < window.size(); ++t) {
    nll -= LogSoftmax(std::span(logits).subspan(t * 97, 97))[static_cast<size_t>(window[t + 1])];
  }
  return nll;
}

TEST(Evaluate, EqualsADirectComputation) {
  const auto weights = RandomModel::Load();
  ASSERT_NE(weights, nullptr);
  const std::vector<int32_t> text = Tokens(200);
  ThreadPool pool(2);
  auto backend = MakeCpuBackend(pool);
  EvaluateOptions options;
  options.context = 150;
  int64_t reported = 0;
  options.progress = [&](int64_t done, int64_t) { reported = done; };
  const auto result = EvaluateVariants(weights, weights, text, *backend, pool, options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(reported, 2);
  EXPECT_EQ(result->windows, 2);
  EXPECT_EQ(result->text_tokens, 200);
  EXPECT_EQ(result->scored_tokens, 198);
  testing::TestModel model(weights);
  for (int variant = 0; variant < 4; ++variant) {
    double nll = 0, kl = 0, agreements = 0;
    for (const auto& window : CutWindows(weights->config(), text, 150)) {
      const auto logits = model.Logits(window, window.size(), variant),
                 full = model.Logits(window, window.size(), 3);
      nll += NllOf(window, logits);
      for (size_t t = 0; t + 1 < window.size(); ++t) {
        const auto row = std::span(logits).subspan(t * 97, 97),
                   reference = std::span(full).subspan(t * 97, 97);
        kl += OracleKl(reference, row);
        agreements += ComputeLogitStats(row).best == ComputeLogitStats(reference).best;
      }
    }
    const VariantScore& score = result->variants[static_cast<size_t>(variant)];
    EXPECT_NEAR(score.perplexity, std::exp(nll / 198), 1e-4);
    EXPECT_NEAR(score.kl, kl / 198, 1e-6);
    EXPECT_DOUBLE_EQ(score.top1_agreement, agreements / 198);
  }
  EXPECT_EQ(result->variants[3].kl, 0);
  EXPECT_EQ(result->variants[3].top1_agreement, 1);
  EXPECT_DOUBLE_EQ(result->reference_perplexity, result->variants[3].perplexity);
}

TEST(Evaluate, ScoresAsPromptsAreRead) {
  const auto weights = RandomModel::Load();
  ASSERT_NE(weights, nullptr);
  const std::vector<int32_t> text = Tokens(60);
  ThreadPool pool(1);
  auto backend = MakeCpuBackend(pool);
  EvaluateOptions options;
  options.variants = {1};
  options.prefill = true;
  const auto result = EvaluateVariants(weights, nullptr, text, *backend, pool, options);
  ASSERT_TRUE(result.ok()) << result.status();
  testing::TestModel model(weights);
  const auto window = CutWindows(weights->config(), text, options.context).at(0);
  const auto logits = model.Logits(window, window.size(), 1, window.size());
  EXPECT_NEAR(result->variants[0].perplexity,
              std::exp(NllOf(window, logits) / static_cast<double>(window.size() - 1)), 1e-4);
}

TEST(Evaluate, OptionsAndRefusals) {
  const auto weights = RandomModel::Load();
  ASSERT_NE(weights, nullptr);
  const std::vector<int32_t> text = Tokens(100);
  ThreadPool pool(1);
  auto backend = MakeCpuBackend(pool);
  EvaluateOptions options;
  options.max_tokens = 40;
  options.variants = {1};
  auto result = EvaluateVariants(weights, nullptr, text, *backend, pool, options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->scored_tokens, 39);
  ASSERT_EQ(result->variants.size(), 1u);
  EXPECT_EQ(result->variants[0].variant, 1);
  EXPECT_EQ(result->variants[0].kl, -1);
  EXPECT_EQ(result->reference_perplexity, -1);
  const auto refused = [&](std::vector<int32_t> ids, EvaluateOptions o) {
    return EvaluateVariants(weights, nullptr, ids, *backend, pool, o).status().code() ==
           absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused({5}, {}));
  EXPECT_TRUE(refused({5, 97}, {}));
  EXPECT_TRUE(refused({5, -1}, {}));
  options.variants = {4};
  EXPECT_TRUE(refused({5, 6}, options));
  options = {};
  options.context = 1;
  EXPECT_TRUE(refused({5, 6}, options));
  testing::RandomModelOptions other;
  other.config.vocab_size = 98;
  EXPECT_FALSE(EvaluateVariants(weights, RandomModel::Load(other), text, *backend, pool, {}).ok());
}

// Greedy next token = (last token + 1) mod 16; remembers its steps.
class CountingModel : public StepModel {
 public:
  CountingModel() { variants_.resize(3); }
  int64_t vocab_size() const override { return 16; }
  int64_t max_context() const override { return 1024; }
  std::span<const LiftedVariant> variants() const override { return variants_; }
  int64_t block_tokens() const override { return 16; }
  int64_t num_blocks() const override { return 64; }
  int64_t bytes_per_block() const override { return 1; }
  StepStats Step(std::span<const SequenceChunk> chunks, std::vector<float>& logits) override {
    const SequenceChunk& chunk = chunks[0];
    EXPECT_EQ(chunk.position, next_);
    next_ += static_cast<int64_t>(chunk.tokens.size());
    steps.emplace_back(chunk.tokens.size(), chunk.variant);
    logits.assign(16, 0.f);
    logits[static_cast<size_t>(chunk.tokens.back() + 1) % 16] = 5;
    return {};
  }
  std::vector<std::pair<size_t, int>> steps;

 private:
  std::vector<LiftedVariant> variants_;
  int64_t next_ = 0;
};

TEST(Generate, ReadsThePromptAtOneVariantAndDecodesAtAnother) {
  CountingModel model;
  GenerateOptions options;
  options.variant = 0;
  options.prefill_variant = 2;
  options.max_new_tokens = 4;
  const std::vector<int32_t> prompt(300, 7);
  const auto answer = GenerateTokens(model, prompt, options);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_THAT(*answer, ElementsAre(8, 9, 10, 11));
  using Step = std::pair<size_t, int>;
  EXPECT_THAT(model.steps,
              ElementsAre(Step(256, 2), Step(44, 2), Step(1, 0), Step(1, 0), Step(1, 0)));
}

TEST(Generate, EndsWithTheFirstEndToken) {
  CountingModel model;
  GenerateOptions options;
  options.stop_ids = {10};
  const std::vector<int32_t> prompt = {7};
  const auto answer = GenerateTokens(model, prompt, options);
  ASSERT_TRUE(answer.ok());
  EXPECT_THAT(*answer, ElementsAre(8, 9, 10));
}

TEST(Generate, SeededSamplingRepeats) {
  const auto weights = RandomModel::Load();
  ASSERT_NE(weights, nullptr);
  const std::vector<int32_t> prompt = Tokens(12);
  GenerateOptions options;
  options.variant = 1;
  options.prefill_variant = 3;
  options.max_new_tokens = 24;
  options.sampling.temperature = 1.5;
  options.sampling.seed = 42;
  testing::TestModel one(weights, 1), two(weights, 2);
  const auto a = GenerateTokens(*one.model, prompt, options),
             b = GenerateTokens(*two.model, prompt, options);
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_EQ(*a, *b);
  options.sampling.seed = 43;
  EXPECT_NE(*a, *GenerateTokens(*one.model, prompt, options));
}

TEST(Generate, RefusesWhatCannotRun) {
  CountingModel model;
  GenerateOptions options;
  const auto code = [&](std::vector<int32_t> prompt) {
    return GenerateTokens(model, prompt, options).status().code();
  };
  EXPECT_EQ(code({}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({16}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(std::vector<int32_t>(1000, 1)), absl::StatusCode::kInvalidArgument);
  options.sampling.temperature = -1;
  EXPECT_EQ(code({1}), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(model.steps.empty());
}

TEST(Npy, WhatIsWrittenIsRead) {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("lift_npy_" + std::to_string(getpid()))).string();
  auto writer = NpyWriter::Create(path, 2, 3);
  ASSERT_TRUE(writer.ok());
  EXPECT_TRUE(writer->Append(std::vector<float>{1, 2, 3, 4}).ok());
  EXPECT_TRUE(writer->Append(std::vector<float>{5, 6}).ok());
  EXPECT_TRUE(writer->Close().ok());
  const auto array = testing::ReadNpy(path);
  EXPECT_THAT(array.shape, ElementsAre(2, 3));
  EXPECT_THAT(array.values, ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_FALSE(NpyWriter::Create(path, 1, 1)->Close().ok());  // too few values
  std::filesystem::remove(path);
  EXPECT_FALSE(NpyWriter::Create("/nonexistent-folder/x.npy", 1, 1).ok());
}

}  // namespace
}  // namespace lift
