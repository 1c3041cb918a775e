#include "server/billing/meter.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace lift {
namespace {

ByteMicros Total(const MeterSplit& split) {
  ByteMicros sum = split.idle_weight + split.overhead_weight + split.overhead_kv;
  for (const MeterShare& share : split.shares) sum += share.weight + share.kv;
  return sum;
}

TEST(Meter, NobodyRanIsIdle) {
  const std::vector<MeterSequence> held = {{.id = 4, .plane_bytes = 0, .kv_bytes = 30}};
  const MeterSplit split = SplitInterval(10, 100, 50, held, 3);
  EXPECT_EQ(split.idle_weight, ByteMicros{330});
  EXPECT_EQ(split.overhead_weight, ByteMicros{0});
  EXPECT_EQ(split.overhead_kv, ByteMicros{60});
  ASSERT_EQ(split.shares.size(), 1u);
  EXPECT_EQ(split.shares[0].id, 4);
  EXPECT_EQ(split.shares[0].weight, ByteMicros{0});
  EXPECT_EQ(split.shares[0].kv, ByteMicros{90});
}

TEST(Meter, ACoarseQueryPaysOnlyForCoarsePlanes) {
  const std::vector<MeterSequence> sequences = {{.id = 0, .plane_bytes = 20, .kv_bytes = 1},
                                                {.id = 1, .plane_bytes = 60, .kv_bytes = 2},
                                                {.id = 2, .plane_bytes = 60, .kv_bytes = 0},
                                                {.id = 3, .plane_bytes = 0, .kv_bytes = 5}};
  const MeterSplit split = SplitInterval(9, 100, 10, sequences, 6);
  // fixed: 9*6/3 = 18 each; [0,20): 20*6/3 = 40 each; [20,60): 40*6/2 = 120 each.
  EXPECT_EQ(split.shares[0].weight, ByteMicros{58});
  EXPECT_EQ(split.shares[1].weight, ByteMicros{178});
  EXPECT_EQ(split.shares[2].weight, ByteMicros{178});
  EXPECT_EQ(split.shares[3].weight, ByteMicros{0});
  EXPECT_EQ(split.overhead_weight, ByteMicros{40 * 6});
  EXPECT_EQ(split.shares[3].kv, ByteMicros{30});
  EXPECT_EQ(split.overhead_kv, ByteMicros{12});
  EXPECT_EQ(split.idle_weight, ByteMicros{0});
}

TEST(Meter, RemaindersGoToOverhead) {
  const std::vector<MeterSequence> sequences(3, MeterSequence{.id = 0, .plane_bytes = 10});
  const MeterSplit split = SplitInterval(1, 10, 0, sequences, 1);
  EXPECT_EQ(split.overhead_weight, ByteMicros{1 + 1});
  EXPECT_EQ(split.shares[0].weight, ByteMicros{3});
}

TEST(Meter, ReadersPastTheResidentPlanesPayForWhatIsThere) {
  const std::vector<MeterSequence> sequences = {{.id = 0, .plane_bytes = 500}};
  const MeterSplit split = SplitInterval(0, 100, 0, sequences, 2);
  EXPECT_EQ(split.shares[0].weight, ByteMicros{200});
  EXPECT_EQ(Total(split), ByteMicros{200});
}

TEST(Meter, LargeNumbersNeed128Bits) {
  const uint64_t terabytes = uint64_t{1} << 45, day = uint64_t{86'400'000'000};
  const std::vector<MeterSequence> sequences = {{.id = 0, .plane_bytes = terabytes}};
  const MeterSplit split = SplitInterval(0, terabytes, 0, sequences, day);
  EXPECT_EQ(split.shares[0].weight, ByteMicros{terabytes} * day);
}

TEST(Meter, ConservesEveryByteMicrosecond) {
  std::mt19937_64 rng(2024);
  for (int trial = 0; trial < 100000; ++trial) {
    const int magnitude = static_cast<int>(rng() % 44);
    const auto random = [&] { return rng() % ((uint64_t{1} << magnitude) + 1); };
    const uint64_t fixed = random(), planes = random(), micros = random();
    std::vector<MeterSequence> sequences(rng() % 9);
    uint64_t kv = random();
    const uint64_t levels = 1 + rng() % 4;  // few distinct prefixes, as variants have
    for (MeterSequence& sequence : sequences) {
      sequence.plane_bytes = rng() % 4 == 0 ? 0 : planes / levels * (1 + rng() % levels);
      sequence.kv_bytes = random();
      kv += sequence.kv_bytes;
    }
    const MeterSplit split = SplitInterval(fixed, planes, kv, sequences, micros);
    ASSERT_TRUE(Total(split) == (ByteMicros{fixed} + planes + kv) * micros) << trial;
    // Reading more never costs less, and no one is charged for what is not his.
    for (size_t i = 0; i < sequences.size(); ++i) {
      for (size_t j = 0; j < sequences.size(); ++j) {
        if (sequences[i].plane_bytes <= sequences[j].plane_bytes) {
          ASSERT_TRUE(split.shares[i].weight <= split.shares[j].weight);
        }
      }
      ASSERT_TRUE(split.shares[i].kv == ByteMicros{sequences[i].kv_bytes} * micros);
    }
  }
}

}  // namespace
}  // namespace lift
