#include "calibration/journal.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
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

TEST(Journal, GivesBackWhatItWasGiven) {
  const std::string path = testing::TempDir() + "/tensors.journal";
  std::filesystem::remove(path);
  LiftedTensorBits other = Sample();
  other.name = "b.weight";
  other.stages[1].planes = {7, 7};
  {
    auto journal = Journal::Open(path, "one");
    ASSERT_TRUE(journal.ok()) << journal.status();
    ASSERT_TRUE((*journal)->Append(Sample()).ok());
    EXPECT_EQ(Serialize(*(*journal)->Read("a.weight")), Serialize(Sample()));
  }
  auto journal = Journal::Open(path, "one");  // after the process ended
  ASSERT_TRUE(journal.ok()) << journal.status();
  ASSERT_TRUE((*journal)->Append(other).ok());
  EXPECT_EQ((*journal)->size(), 2u);
  EXPECT_EQ(Serialize(*(*journal)->Read("a.weight")), Serialize(Sample()));
  const auto map = MappedFile::Open(path);
  ASSERT_TRUE(map.ok());
  for (const LiftedTensorBits& tensor : {Sample(), other}) {
    EXPECT_EQ(Serialize(*(*journal)->Read(tensor.name)), Serialize(tensor));
    const auto planes = (*journal)->Planes(tensor.name, **map);
    ASSERT_EQ(planes.size(), 2u);
    for (size_t j = 0; j < 2; ++j) {
      EXPECT_TRUE(std::ranges::equal(planes[j], tensor.stages[j].planes));
    }
  }
  EXPECT_EQ((*Journal::Open(path, "two"))->size(), 0u);
}

TEST(Journal, SomebodyElsesWritingIsNoticed) {
  const std::string path = testing::TempDir() + "/changed.journal";
  std::filesystem::remove(path);
  auto journal = Journal::Open(path, "one");
  ASSERT_TRUE(journal.ok());
  ASSERT_TRUE((*journal)->Append(Sample()).ok());
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-3, std::ios::end);
  file.put('x');
  file.close();
  EXPECT_EQ((*journal)->Read("a.weight").status().code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace lift
