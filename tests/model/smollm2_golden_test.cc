// The real model against Hugging Face transformers on the same dequantized weights. Needs
// LIFT_TEST_MODEL (the GGUF file that make_model_goldens.py was run on).
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "calibration/eval/evaluate.h"
#include "calibration/eval/logit_stats.h"
#include "server/tokenizer/tokenizer.h"
#include "tests/model/npy.h"
#include "tests/model/runner.h"

namespace lift {
namespace {

using nlohmann::json;
const std::string kFolder = LIFT_TEST_DATA "/smollm2/";
constexpr char kText[] = LIFT_TEST_DATA "/text/node_modules_and_packages.txt";

class SmolLm2 : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* path = std::getenv("LIFT_TEST_MODEL");
    if (!path) GTEST_SKIP() << "LIFT_TEST_MODEL does not name SmolLM2-135M-Instruct.Q4_1.gguf";
    auto weights = Weights::Open(path);
    ASSERT_TRUE(weights.ok()) << weights.status();
    weights_ = *weights;
    golden_ = json::parse(std::ifstream(kFolder + "golden.json"));
  }
  std::shared_ptr<Weights> weights_;
  json golden_;
};

TEST_F(SmolLm2, LogitsOf512Tokens) {
  const auto ids = golden_["token_ids"].get<std::vector<int32_t>>();
  const auto columns = golden_["columns"].get<std::vector<size_t>>();
  const auto top1 = golden_["top1"].get<std::vector<int64_t>>();
  const auto margin = golden_["margin"].get<std::vector<double>>(),
             log_sum_exp = golden_["logsumexp"].get<std::vector<double>>();
  const testing::NpyArray expected = testing::ReadNpy(kFolder + "logits.npy");
  ASSERT_EQ(expected.values.size(), ids.size() * columns.size());
  Transformer::Options options;
  options.num_blocks = static_cast<int64_t>(ids.size()) / options.block_tokens;
  testing::TestModel model(weights_, AvailableCores(), options);
  ASSERT_TRUE(model.status.ok()) << model.status;
  const std::vector<float> logits = model.Logits(ids, 256, 0);
  const auto vocab = static_cast<size_t>(model.model->vocab_size());
  double worst = 0;
  for (size_t t = 0; t < ids.size(); ++t) {
    const auto row = std::span(logits).subspan(t * vocab, vocab);
    const LogitStats stats = ComputeLogitStats(row);
    for (size_t c = 0; c < columns.size(); ++c) {
      const double error = std::abs(row[columns[c]] - expected.values[t * columns.size() + c]);
      ASSERT_TRUE(error <= 2e-3) << "token " << t << " column " << columns[c];
      worst = std::max(worst, error);
    }
    ASSERT_NEAR(stats.log_sum_exp, log_sum_exp[t], 2e-3) << "token " << t;
    if (margin[t] > 2e-3) {
      ASSERT_EQ(stats.best, top1[t]) << "token " << t;
    }
  }
  RecordProperty("max_abs_difference", std::to_string(worst));
  std::printf("max abs difference of logits over %zu tokens: %.2e\n", ids.size(), worst);
}

TEST_F(SmolLm2, PerplexityOfTwoWindows) {
  std::ifstream in(kText, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  auto spec = LoadTokenizerSpec(*weights_->checkpoint());
  ASSERT_TRUE(spec.ok()) << spec.status();
  auto tokenizer = Tokenizer::Create(*std::move(spec));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  auto ids = (*tokenizer)->Encode(text, {.add_special = false});
  ASSERT_TRUE(ids.ok()) << ids.status();
  const auto context = golden_["context"].get<int64_t>();
  const auto first_ids = golden_["window_first_ids"].get<std::vector<int32_t>>();
  for (size_t w = 0; w < first_ids.size(); ++w) {
    ASSERT_EQ((*ids)[w * static_cast<size_t>(context)], first_ids[w]) << "window " << w;
  }
  EvaluateOptions options;
  options.context = context;
  options.max_tokens = 2 * context;
  ThreadPool pool(AvailableCores());
  auto backend = MakeCpuBackend(pool);
  const auto evaluation = EvaluateVariants(weights_, nullptr, *ids, *backend, pool, options);
  ASSERT_TRUE(evaluation.ok()) << evaluation.status();
  const auto expected = golden_["window_nll"].get<std::vector<double>>();
  for (size_t w = 0; w < 2; ++w) {
    EXPECT_NEAR(evaluation->variants[0].window_nll[w] / expected[w], 1, 1e-4) << "window " << w;
  }
}

}  // namespace
}  // namespace lift
