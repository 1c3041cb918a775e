#include "server/assembly.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/rpc/fake_model.h"

namespace lift {
namespace {

TEST(VariantSubset, RenumbersItsVariants) {
  test::FakeModel model;
  VariantSubset subset(model, {0, 2});
  ASSERT_EQ(subset.variants().size(), 2u);
  EXPECT_EQ(subset.variants()[1].name, "fine");
  const std::vector<int32_t> tokens{5};
  const std::vector<int32_t> blocks{0};
  std::vector<float> whole, part;
  const SequenceChunk of_model{.tokens = tokens, .position = 0, .blocks = blocks, .variant = 2};
  SequenceChunk of_subset = of_model;
  of_subset.variant = 1;
  model.Step({&of_model, 1}, whole);
  subset.Step({&of_subset, 1}, part);
  EXPECT_EQ(whole, part);
}

TEST(SelectVariants, NamesTheUnknownOne) {
  test::FakeModel model;
  EXPECT_THAT(*SelectVariants(model.variants(), {}), testing::ElementsAre(0, 1, 2));
  EXPECT_THAT(*SelectVariants(model.variants(), {"fine", "coarse"}), testing::ElementsAre(0, 2));
  const auto wrong = SelectVariants(model.variants(), {"nonesuch"});
  EXPECT_THAT(std::string(wrong.status().message()), testing::HasSubstr("nonesuch"));
  EXPECT_THAT(std::string(wrong.status().message()), testing::HasSubstr("coarse, middle, fine"));
}

TEST(FillResidentBytes, PlanesAreSharedAndTheSourceIsNot) {
  std::vector<LiftedVariant> variants(3);
  variants[0] = {.name = "a", .plane_bytes = 100, .bytes = 110};
  variants[1] = {.name = "b", .plane_bytes = 300, .bytes = 310};
  variants[2] = {.name = "full", .lambda = 1, .full = true, .bytes = 1010};
  std::vector<VariantInfo> infos;
  EXPECT_EQ(FillResidentBytes(variants, infos), 10u + 300u + 1000u);
  EXPECT_EQ(infos[0].incremental_bytes, 110u);
  EXPECT_EQ(infos[1].incremental_bytes, 200u);
  EXPECT_EQ(infos[2].incremental_bytes, 1000u);
  EXPECT_EQ(FillResidentBytes({variants.data() + 2, 1}, infos), 1010u);
}

}  // namespace
}  // namespace lift
