// Binding weights by name: what is missing or misshapen is refused by name; sites and variants are
// laid out as kernels expect.
#include "server/model/weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/model/random_model.h"

namespace lift {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::RandomModel;
using testing::RandomModelOptions;

constexpr char kGate[] = "model.layers.1.mlp.gate_proj.weight";

std::string Refusal(const RandomModelOptions& options) {
  auto file = RandomModel(options).Write();
  if (!file.ok()) return "not written: " + std::string(file.status().message());
  const auto weights = Weights::FromLiftedFile(*file);
  if (weights.ok()) return "accepted";
  EXPECT_EQ(weights.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(weights.status().message());
}

TEST(Weights, MissingAndMisshapenTensorsAreNamed) {
  RandomModelOptions options;
  options.leave_out = kGate;
  EXPECT_THAT(Refusal(options), AllOf(HasSubstr("lacks"), HasSubstr(kGate)));
  options.leave_out = "model.norm.weight";
  EXPECT_THAT(Refusal(options), AllOf(HasSubstr("lacks"), HasSubstr("model.norm.weight")));
  options.leave_out = "model.layers.0.self_attn.k_proj.bias";
  EXPECT_THAT(Refusal(options), HasSubstr("k_proj.bias"));
  options = {};
  options.wrong_shape = kGate;
  EXPECT_THAT(Refusal(options),
              AllOf(HasSubstr(kGate), HasSubstr("96 x 48"), HasSubstr("80 x 48")));
  options = {};
  options.wrong_rotation = kGate;
  EXPECT_THAT(Refusal(options),
              AllOf(HasSubstr("model.layers.1.mlp.gate_up"), HasSubstr("rotated differently")));
}

TEST(Weights, ConfigurationOfALiftedFileIsChecked) {
  RandomModelOptions options;
  options.config.num_kv_heads = 3;  // does not divide the heads
  EXPECT_NE(Refusal(options), "accepted");
}

TEST(Weights, VariantsAndBytes) {
  const auto weights = RandomModel::Load();
  ASSERT_NE(weights, nullptr);
  EXPECT_EQ(weights->FindVariant("mid"), 1);
  EXPECT_EQ(weights->FindVariant("none"), -1);
  const LiftedFile& file = *weights->file();
  EXPECT_EQ(weights->VariantBytes(2), file.fixed_bytes() + file.planes().size());
  uint64_t source = 0;
  for (const LiftedTensor& tensor : file.tensors()) source += tensor.source->bytes();
  EXPECT_EQ(weights->ResidentBytes(), file.fixed_bytes() + file.planes().size() + source);
  RandomModelOptions lifted_only;
  lifted_only.full = false;
  const auto lifted = RandomModel::Load(lifted_only);
  EXPECT_EQ(lifted->ResidentBytes(),
            lifted->VariantBytes(2));  // all variants together = the largest alone
}

TEST(Weights, SitesShareSlotsAndKnowWhatVariantsRead) {
  const auto weights = RandomModel::Load();
  ASSERT_NE(weights, nullptr);
  const LiftSite* site = weights->FindSite("model.layers.0.self_attn.qkv");
  ASSERT_NE(site, nullptr);
  EXPECT_EQ(site->cols, 48);
  ASSERT_EQ(site->codes.size(), 2u);  // three tensors, two distinct codes
  const auto matrix = weights->GetMatrix("model.layers.0.self_attn.q_proj.weight");
  ASSERT_TRUE(matrix.ok());
  const LiftedMatrix& lifted = (*matrix)->lifted[0];
  EXPECT_EQ(lifted.rotation, site->rotation);
  for (const LiftedMatrix::Stage& stage : lifted.stages) {
    EXPECT_EQ(site->codes[static_cast<size_t>(stage.slot)], stage.code);
  }
  // low reads the first stages only, high all of them with its first stage wide, full none.
  using Flags = std::vector<uint8_t>;
  const auto of = [](const std::vector<uint8_t>& flags, size_t variant) {
    return Flags(flags.begin() + static_cast<std::ptrdiff_t>(2 * variant),
                 flags.begin() + static_cast<std::ptrdiff_t>(2 * variant) + 2);
  };
  EXPECT_EQ(of(site->used, 0), (Flags{1, 0}));
  EXPECT_EQ(of(site->used, 2), (Flags{1, 1}));
  EXPECT_EQ(of(site->used, 3), (Flags{0, 0}));
  EXPECT_EQ(of(site->wide, 0), (Flags{0, 0}));
  EXPECT_EQ(of(site->wide, 2), (Flags{1, 0}));
  EXPECT_EQ(lifted.rows_of(0)[0], 48);
  EXPECT_EQ(lifted.rows_of(0)[1], 0);
  EXPECT_EQ(weights->FindSite("lm_head")->cols, 48);
  EXPECT_EQ(weights->FindSite("no.such.site"), nullptr);
}

TEST(Weights, StripsMustCoverTheMatrix) {
  RandomModelOptions options;
  options.strips = true;
  const auto weights = RandomModel::Load(options);
  ASSERT_NE(weights, nullptr);
  const Matrix& matrix = **weights->GetMatrix("model.embed_tokens.weight");
  ASSERT_EQ(matrix.lifted.size(), 2u);
  EXPECT_EQ(matrix.lifted[0].rows + matrix.lifted[1].rows, matrix.rows);
  EXPECT_EQ(matrix.lifted[1].pitch, matrix.rows);
  EXPECT_EQ(matrix.StripOf(testing::kFirstStrip - 1).first, &matrix.lifted[0]);
  EXPECT_EQ(matrix.StripOf(testing::kFirstStrip),
            (std::pair<const LiftedMatrix*, int64_t>(&matrix.lifted[1], 0)));
  ASSERT_TRUE(matrix.dense.has_value());
  EXPECT_EQ(matrix.dense->rows, matrix.rows);
  options.wrong_shape = "model.embed_tokens.weight";  // 16 rows more than the configuration says
  const auto file = RandomModel(options).Write();
  ASSERT_TRUE(file.ok());
  const auto refused = Weights::FromLiftedFile(*file);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Weights, OverrideReplacesAndRestores) {
  const auto weights = RandomModel::Load();
  ASSERT_NE(weights, nullptr);
  const Matrix* matrix = *weights->GetMatrix(kGate);
  const LiftedMatrix* lifted = matrix->lifted.data();
  const std::vector<float> values(80 * 48, 1.f), other(80 * 48, 2.f);
  weights->OverrideDense(kGate, values.data());
  EXPECT_TRUE(matrix->lifted.empty());
  EXPECT_EQ(matrix->dense->data, reinterpret_cast<const std::byte*>(values.data()));
  weights->OverrideDense(kGate, other.data());
  weights->OverrideDense(kGate, nullptr);
  EXPECT_EQ(matrix->lifted.data(), lifted);
  EXPECT_EQ(matrix->dense->type, DType::kF16);
  weights->OverrideDense(kGate, nullptr);  // restoring twice is harmless
  EXPECT_EQ(matrix->lifted.data(), lifted);
}

TEST(Weights, OpenTellsKindsApart) {
  EXPECT_FALSE(Weights::Open("/nonexistent/model").ok());
  const auto lifted = Weights::Open(LIFT_TEST_DATA "/lifted_v1.lift");
  ASSERT_FALSE(lifted.ok());  // a lifted file, but its configuration is not a model's
  EXPECT_EQ(lifted.status().code(), absl::StatusCode::kInvalidArgument);
  const auto checkpoint = Weights::Open(LIFT_TEST_DATA "/tiny/tiny-gqa");
  EXPECT_THAT(
      std::string(
          Weights::Open(LIFT_TEST_DATA "/tiny/tiny-gqa", {.cuts = {1000000}}).status().message()),
      ::testing::HasSubstr("lifted file only"));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->variants().size(), 1u);
  EXPECT_EQ((*checkpoint)->variants()[0].name, "full");
  EXPECT_DOUBLE_EQ((*checkpoint)->variants()[0].lambda, 1);
  EXPECT_EQ((*checkpoint)->file(), nullptr);
  EXPECT_EQ((*checkpoint)->ResidentBytes(), (*checkpoint)->VariantBytes(0));
}

}  // namespace
}  // namespace lift
