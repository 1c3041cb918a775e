#include "calibration/variant_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <numeric>

#include "server/model/model_layout.h"

namespace lift {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr int64_t kRows = 32, kCols = 64;

VariantRequest Bits(double bits) { return {bits, {}, {}}; }

TEST(VariantPlan, BitsLambdaAndBytesAreOneKnob) {
  const int64_t weights = 8000;
  const std::vector<VariantRequest> requests = {
      Bits(3), {{}, 0.5, {}}, {{}, {}, uint64_t{4100}}, {{}, 1.0, {}}};
  const auto planned = PlanVariants(requests, weights, 100);
  ASSERT_TRUE(planned.ok()) << planned.status();
  EXPECT_DOUBLE_EQ((*planned)[0].bits_per_weight, 3);
  EXPECT_DOUBLE_EQ((*planned)[1].bits_per_weight, 4);
  EXPECT_DOUBLE_EQ((*planned)[2].bits_per_weight, 4);
  EXPECT_TRUE((*planned)[3].full);
  EXPECT_THAT(ChainForVariants(*planned, weights, {{{"a", {1000}, {}, 0}}}),
              ElementsAre(2, 1, 1, 1));
  const auto refused = [&](VariantRequest request) {
    return std::string(PlanVariants({{request}}, weights, 100).status().message());
  };
  EXPECT_THAT(refused(Bits(13)), HasSubstr("choose 1 to 12 bits"));
  EXPECT_THAT(refused(Bits(NAN)), HasSubstr("choose 1 to 12 bits"));
  EXPECT_THAT(refused({{}, {}, uint64_t{500}}), HasSubstr("too small"));
}

TEST(VariantPlan, AChainLeavesRoomForPadding) {
  const auto planned = PlanVariants({{Bits(4), Bits(8)}}, 8000, 0);
  ASSERT_TRUE(planned.ok()) << planned.status();
  // A plane of 1.05 bits a weight: four planes are more than four bits.
  const std::vector<TensorCost> one_bit = {{"a", {600}, {}, 0}, {"b", {450}, {}, 0}};
  const std::vector<int> chain = ChainForVariants(*planned, 8000, one_bit);
  const int bits = std::accumulate(chain.begin(), chain.end(), 0);
  EXPECT_LE(chain[0] * 1.05, 4);
  EXPECT_GE(bits * 1.05, 8);
}

TEST(VariantPlan, PlannedBytesAreThoseOfTheShapes) {
  ModelConfig config;
  config.architecture = "llama";
  config.num_layers = 1;
  config.hidden_size = 72;  // padded to 96
  config.intermediate_size = 128;
  config.num_heads = config.num_kv_heads = 2;
  config.head_dim = 36;
  config.vocab_size = 64;
  config.tie_embeddings = true;
  const std::vector<Strip> strips = {{0, 32, 2.0}, {32, 32, 0.1}};
  const auto costs = PlannedCosts(config, {2, 1}, strips);
  std::vector<std::vector<uint64_t>> embedding;
  for (const TensorCost& cost : costs) {
    if (cost.name == layout::kEmbedding) embedding.push_back(cost.stage_bytes);
    if (cost.name.find("q_proj") != std::string::npos) {
      EXPECT_THAT(cost.stage_bytes, ElementsAre(80u * 96 * 2 / 8, 80u * 96 / 8));  // of 72 rows
    }
  }
  EXPECT_EQ(costs.size(), 9u);
  EXPECT_THAT(embedding, ElementsAre(ElementsAre(32u * 96 * 2 / 8, 32u * 96 / 8),
                                     ElementsAre(32u * 12, 32u * 12, 32u * 12)));
}

TEST(VariantPlan, VariantsBecomePrefixesInOrder) {
  const std::vector<TensorCost> costs = {{"a", {1000, 500}, {1, 0.1, 0.03}, 1}};
  auto planned = *PlanVariants({{{{}, 1.0, {}}, Bits(3), Bits(2)}}, 4000, 0);
  ASSERT_TRUE(PlaceVariants(costs, 4000, planned).ok());
  EXPECT_EQ(planned[0].name, "q2.0");
  EXPECT_EQ(planned[0].plane_bytes, 1000u);
  EXPECT_EQ(planned[1].plane_bytes, 1500u);
  EXPECT_EQ(planned[2].name, "full");
  planned = *PlanVariants({{Bits(3), Bits(3)}}, 4000, 0);
  EXPECT_THAT(std::string(PlaceVariants(costs, 4000, planned).message()), HasSubstr("twice"));
  planned = *PlanVariants({{Bits(5), Bits(6)}}, 4000, 0);
  EXPECT_THAT(std::string(PlaceVariants(costs, 4000, planned).message()),
              HasSubstr("at most 3 bits per weight"));
  planned = *PlanVariants({{Bits(1.5)}}, 4000, 0);
  EXPECT_THAT(std::string(PlaceVariants(costs, 4000, planned).message()),
              HasSubstr("which take 2;"));
}

TEST(VariantPlan, WhatNoVariantReadsIsDropped) {
  const std::vector<TensorCost> all = {{"a", {1000, 500, 500}, {1, 0.1, 0.03, 0.01}, 1},
                                       {"b", {1000, 500, 500}, {1, 0.2, 0.06, 0.02}, 3}};
  const std::vector<PlaneUnit> sorted = {{0, 0}, {1, 0}, {1, 1}, {0, 1}, {1, 2}, {0, 2}};
  std::vector<LiftedVariant> variants(2);
  variants[0].plane_bytes = 2000;
  variants[1].plane_bytes = 2600;  // ends inside the second stage of "a"
  auto order = sorted;
  auto costs = all;
  DropUnused(variants, order, costs);
  ASSERT_EQ(order.size(), 4u);
  EXPECT_EQ(order.back().tensor, 0);
  for (const TensorCost& cost : costs) {
    EXPECT_THAT(cost.stage_bytes, ElementsAre(1000u, 500u));
    EXPECT_EQ(cost.error.size(), 3u);
  }
  variants.resize(1);
  variants[0] = {};
  variants[0].full = true;  // reads the source: says nothing about planes
  order = sorted, costs = all;
  DropUnused(variants, order, costs);
  EXPECT_EQ(order.size(), 6u);
}

class VariantPlanFile : public testing::Test {
 protected:
  // A matrix of two stages of two bits, with the given report and a measured variant of each.
  std::shared_ptr<const LiftedFile> File(std::string report, double coarse_kl, double fine_kl) {
    LiftedFileWriter writer;
    writer.SetModelConfig("{}");
    writer.SetTokenizer("{}");
    writer.SetSourceSha256(std::string(64, '0'));
    writer.SetReport(std::move(report));
    LiftCode code;
    code.name = "2";
    code.stored = 2;
    code.steps = 1;
    code.taps = {0.9f, 0.4f};
    const int index = writer.AddCode(code);
    const std::vector<uint8_t> planes(kRows * kCols * 2 / 8, 0x5A);
    writer.AddTensor("a", kRows, kCols, {}, std::vector<uint16_t>(kRows, 0x3C00),
                     {{index, 1.0f, planes}, {index, 0.3f, planes}});
    writer.SetPlaneOrder({{0, 0}, {0, 1}});
    std::vector<LiftedVariant> variants(2);
    variants[0].name = "q2.0";
    variants[0].plane_bytes = planes.size();
    variants[0].kl = coarse_kl;
    variants[1].name = "q4.0";
    variants[1].plane_bytes = 2 * planes.size();
    variants[1].kl = fine_kl;
    writer.SetVariants(variants);
    const std::string path = testing::TempDir() + "/variant_plan.lift";
    EXPECT_TRUE(writer.Finish(path).ok());
    auto file = LiftedFile::Open(path);
    std::filesystem::remove(path);
    EXPECT_TRUE(file.ok()) << file.status();
    return *file;
  }
};

TEST_F(VariantPlanFile, ExpectedKlFollowsThePredictionAndMeetsWhatWasMeasured) {
  // Predicted .1 and .01; measured twice and once that.
  const auto file = File(
      R"({"tensors": [{"name": "a", "sensitivity": 1.0, "error": [1.0, 0.1, 0.01]}]})", 0.2, 0.01);
  const auto costs = CostsOf(*file);
  ASSERT_TRUE(costs.ok()) << costs.status();
  const uint64_t stage = kRows * kCols * 2 / 8;
  EXPECT_THAT((*costs)[0].stage_bytes, ElementsAre(stage, stage));
  EXPECT_NEAR(ExpectedKl(*file, *costs, stage), 0.2, 1e-12);
  EXPECT_NEAR(ExpectedKl(*file, *costs, 2 * stage), 0.01, 1e-12);
  EXPECT_NEAR(ExpectedKl(*file, *costs, stage + stage / 2), 0.055 * std::sqrt(2.0), 1e-12);
}

TEST_F(VariantPlanFile, BudgetsAreKept) {
  const auto file = File("", -1, -1);
  const uint64_t fixed = file->fixed_bytes(), stage = kRows * kCols * 2 / 8;
  ASSERT_GT(fixed, 0u);
  std::vector<LiftedVariant> variants(2);
  variants[0].plane_bytes = variants[1].plane_bytes = 2 * stage;
  variants[0].budget_bytes = fixed + 2 * stage - 10;
  variants[1].budget_bytes = fixed + 2 * stage;
  EXPECT_TRUE(*FitBudgets(*file, variants));
  EXPECT_EQ(variants[0].plane_bytes, 2 * stage - 10);
  EXPECT_EQ(variants[1].plane_bytes, 2 * stage);
  EXPECT_FALSE(*FitBudgets(*file, variants));
  variants[0].budget_bytes = fixed + stage - 1;
  EXPECT_THAT(std::string(FitBudgets(*file, variants).status().message()), HasSubstr("too small"));
}

TEST_F(VariantPlanFile, AFileWithoutAReportSaysSo) {
  for (const char* report :
       {"", "[]", R"({"tensors": 3})", R"({"tensors": [{"name": 1}]})", R"({"tensors": []})",
        R"({"tensors": [{"name": "a", "sensitivity": 1.0, "error": [1.0, 0.1]}]})",
        R"({"tensors": [{"name": "a", "sensitivity": 1.0, "error": [1.0, 0.1, "x"]}]})",
        R"({"tensors": [{"name": "a", "sensitivity": "x", "error": [1.0, 0.1, 0.1]}]})"}) {
    const auto costs = CostsOf(*File(report, -1, -1));
    EXPECT_EQ(costs.status().code(), absl::StatusCode::kFailedPrecondition) << report;
  }
}

}  // namespace
}  // namespace lift
