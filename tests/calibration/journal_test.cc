#include "calibration/journal.h"

#include <gtest/gtest.h>

#include <random>

namespace lift {
namespace {

LiftedTensorBits Sample() {
  LiftedTensorBits tensor{"a.weight", 3, 40, 64, {true, 77}, {1, 2, 3}, {}, 2.5, {1.0, 0.1, 0.02}};
  tensor.stages.push_back({{1, 2, 3, 4}, 0.5f});
  tensor.stages.push_back({{9}, 0.25f});
  return tensor;
}

TEST(Journal, TensorsSurviveTheRoundTrip) {
  const auto back = Deserialize(Serialize(Sample()));
  ASSERT_TRUE(back.has_value());
  EXPECT_EQ(Serialize(*back), Serialize(Sample()));
  EXPECT_EQ(back->name, "a.weight");
  EXPECT_EQ(back->stages[0].planes, (std::vector<uint8_t>{1, 2, 3, 4}));
  EXPECT_EQ(back->rotation.seed, 77u);
}

TEST(Journal, NothingButTheWholeRecordIsATensor) {
  const std::string whole = Serialize(Sample());
  for (size_t n = 0; n < whole.size(); ++n)
    EXPECT_FALSE(Deserialize(std::string_view(whole).substr(0, n)).has_value()) << n;
  EXPECT_FALSE(Deserialize(whole + "x").has_value());
  std::mt19937 random(3);
  for (int i = 0; i < 20000; ++i) {  // lengths that lie must not crash or allocate
    std::string damaged = whole;
    for (int k = 0; k < 3; ++k) damaged[random() % damaged.size()] = static_cast<char>(random());
    (void)Deserialize(damaged);
  }
}

}  // namespace
}  // namespace lift
