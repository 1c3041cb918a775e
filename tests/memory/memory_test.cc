// Budgets, schedules and pressure, and the governor that follows them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <future>

#include "server/memory/budget.h"
#include "server/memory/governor.h"
#include "tests/engine/engine_fixture.h"

namespace lift {
namespace {

using namespace std::chrono_literals;

std::vector<VariantInfo> Infos(std::initializer_list<uint64_t> increments) {
  std::vector<VariantInfo> infos;
  for (const uint64_t bytes : increments) {
    infos.emplace_back();
    infos.back().name = "v" + std::to_string(infos.size());
    infos.back().incremental_bytes = bytes;
  }
  return infos;
}

bool Becomes(const std::function<bool()>& condition) {
  for (int i = 0; i < 1000 && !condition(); ++i) std::this_thread::sleep_for(10ms);
  return condition();
}

TEST(Budget, TheFinestPrefixThatFits) {
  const auto infos = Infos({100, 50, 200});
  EXPECT_EQ(VariantsWithin(infos, 99), 0);
  EXPECT_EQ(VariantsWithin(infos, 100), 1);
  EXPECT_EQ(VariantsWithin(infos, 349), 2);
  EXPECT_EQ(VariantsWithin(infos, 350), 3);
  EXPECT_EQ(VariantsWithin(infos, UINT64_MAX), 3);
  EXPECT_EQ(BytesOf(infos, 2), 150u);
}

TEST(Schedule, TheLastEntryBeforeNowHoldsAlsoOverMidnight) {
  const auto schedule = MemorySchedule::Parse("07:00=4096,22:30=1024");
  ASSERT_TRUE(schedule.ok()) << schedule.status();
  EXPECT_EQ(schedule->BytesAt(7 * 60), uint64_t{4096} << 20);
  EXPECT_EQ(schedule->BytesAt(7 * 60 - 1), uint64_t{1024} << 20);
  EXPECT_EQ(schedule->BytesAt(22 * 60 + 29), uint64_t{4096} << 20);
  EXPECT_EQ(schedule->BytesAt(22 * 60 + 30), uint64_t{1024} << 20);
  EXPECT_EQ(schedule->BytesAt(0), uint64_t{1024} << 20);
  EXPECT_FALSE(MemorySchedule::Parse("")->BytesAt(0).has_value());
  for (const char* bad : {"7:00=1", "07:00", "07:00=", "24:00=1", "07:60=1", "07:00=0", "07:00=-1",
                          "07:00=1,07:00=2", "07:00=1,", "0a:00=1", "07:00=99999999999"}) {
    EXPECT_EQ(MemorySchedule::Parse(bad).status().code(), absl::StatusCode::kInvalidArgument)
        << bad;
  }
}

class PressureFiles : public ::testing::Test {
 protected:
  PressureFiles()
      : folder_(std::filesystem::temp_directory_path() /
                ("memory_test_" + std::to_string(getpid()))) {
    std::filesystem::create_directories(folder_);
  }
  ~PressureFiles() override { std::filesystem::remove_all(folder_); }
  void Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / (name + ".tmp")) << text;
    std::filesystem::rename(folder_ / (name + ".tmp"), folder_ / name);
  }
  void Psi(const std::string& some) {
    Write("memory.pressure", "some avg10=" + some + " avg60=0.00 avg300=0.00 total=0\nfull avg10=" +
                                 "99.00 avg60=0.00 avg300=0.00 total=0\n");
  }
  std::filesystem::path folder_;
};

TEST_F(PressureFiles, AreReadAsTheKernelWritesThem) {
  EXPECT_EQ(ReadPressure(folder_).status().code(), absl::StatusCode::kUnavailable);
  Psi("12.50");
  EXPECT_EQ(ReadPressure(folder_)->some_avg10, 12.5);
  EXPECT_FALSE(ReadPressure(folder_)->room.has_value());
  EXPECT_EQ(ReadPressure(folder_ / "memory.pressure")->some_avg10, 12.5);
  Write("memory.current", "600\n");
  Write("memory.high", "max\n");
  EXPECT_FALSE(ReadPressure(folder_)->room.has_value());
  Write("memory.high", "1000\n");
  EXPECT_EQ(ReadPressure(folder_)->room, uint64_t{400});
  Write("memory.high", "500\n");
  EXPECT_EQ(ReadPressure(folder_)->room, uint64_t{0});
  Write("memory.high", "lots\n");
  EXPECT_FALSE(ReadPressure(folder_).ok());
  for (const char* bad : {"", "some avg10=", "some avg10=x ", "some avg10=-1 ", "some avg10=101 ",
                          "full avg10=1.00 avg60=0.00", "some avg10=nan "}) {
    EXPECT_FALSE(ParseSomeAvg10(bad).ok()) << bad;
  }
  EXPECT_FALSE(ReadPressure("/nonexistent/memory").ok());
}

TEST(PressurePolicy, OneStepAtATimeAndBackAfterCalm) {
  PressurePolicy policy({.threshold = 10, .settle = 5s, .recover = 60s});
  const auto start = std::chrono::steady_clock::time_point{} + 1h;
  const auto at = [&](int second, PressureReading reading, int most = 3) {
    return policy.Decide(reading, start + std::chrono::seconds(second), most, 100);
  };
  const PressureReading calm{.some_avg10 = 9.9, .room = {}}, high{.some_avg10 = 10, .room = {}};
  EXPECT_EQ(at(0, calm), 0);
  EXPECT_EQ(at(1, high), 1);
  EXPECT_EQ(at(5, high), 1);
  EXPECT_EQ(at(6, high), 2);
  EXPECT_EQ(at(11, high, 2), 2);  // nothing is left to drop
  EXPECT_EQ(at(12, calm), 2);
  EXPECT_EQ(at(71, calm), 2);
  EXPECT_EQ(at(72, calm), 1);
  EXPECT_EQ(at(73, high), 1);
  EXPECT_EQ(at(77, high), 2);
  // memory.high: gone at no room, back only where twice the bytes fit.
  EXPECT_EQ(at(90, {.some_avg10 = 0, .room = uint64_t{0}}), 3);
  EXPECT_EQ(at(91, {.some_avg10 = 0, .room = uint64_t{199}}), 3);
  EXPECT_EQ(at(200, {.some_avg10 = 0, .room = uint64_t{199}}), 3);
  EXPECT_EQ(at(201, {.some_avg10 = 0, .room = uint64_t{200}}), 2);
}

ModelInfo InfoOf(const FakeModel& model) {
  ModelInfo info;
  uint64_t held = 0;
  for (const LiftedVariant& v : model.variants()) {
    info.variants.emplace_back();
    info.variants.back().name = v.name;
    info.variants.back().incremental_bytes = v.bytes - held;
    held = v.bytes;
  }
  return info;
}

TEST_F(PressureFiles, TheGovernorFollowsTheClockAndThePressure) {
  FakeModel model({.delay = 500us, .full = false});
  const ModelInfo info = InfoOf(model);
  Engine engine(model, ByteTokenizer(), {});
  std::atomic<int> minute{12 * 60}, changed{0};
  Psi("0.00");
  const auto schedule = MemorySchedule::Parse("08:00=2048,20:00=1");
  ASSERT_TRUE(schedule.ok());
  MemoryGovernor governor(engine, info,
                          {.schedule = *schedule,
                           .pressure_path = folder_,
                           .pressure = {.threshold = 10, .settle = 0s, .recover = 0s},
                           .poll = 5ms,
                           .minute_of_day = [&] { return minute.load(); },
                           .report = {},
                           .changed = [&] { ++changed; }});
  EXPECT_EQ(engine.resident_variants(), 4);
  Psi("50.00");
  EXPECT_TRUE(Becomes([&] { return engine.resident_variants() == 1; }));
  Psi("0.00");
  EXPECT_TRUE(Becomes([&] { return engine.resident_variants() == 4; }));
  EXPECT_EQ(governor.changes(), 6);
  EXPECT_EQ(changed, 6);
}

// Who has a floor is not disturbed; the change comes when he is gone.
TEST(Governor, WaitsForAFloorToEnd) {
  FakeModel model({.delay = 500us, .full = false});
  ModelInfo info = InfoOf(model);
  for (VariantInfo& v : info.variants) v.incremental_bytes <<= 20;  // a schedule counts in MiB
  Engine engine(model, ByteTokenizer(), {});
  auto pinned = std::make_shared<RecordingListener>();
  ASSERT_TRUE(engine.Submit(MakeRequest({1, 2}, 100, "q6.0"), pinned).ok());
  ASSERT_TRUE(pinned->WaitForTokens(1));
  const auto schedule = MemorySchedule::Parse("00:00=31012");
  ASSERT_TRUE(schedule.ok());
  std::vector<std::string> reports;
  {
    MemoryGovernor governor(engine, info,
                            {.schedule = *schedule,
                             .pressure_path = "",
                             .pressure = {},
                             .poll = 1ms,
                             .minute_of_day = [] { return 0; },
                             .report = [&](const std::string& s) { reports.push_back(s); },
                             .changed = {}});
    EXPECT_TRUE(Becomes([&] { return governor.refusals() > 2; }));
    EXPECT_EQ(engine.resident_variants(), 4);
    EXPECT_EQ(pinned->Wait().usage.generated_tokens, 100);
    EXPECT_TRUE(Becomes([&] { return engine.resident_variants() == 2; }));
    // An administrator's word holds until the schedule says something else.
    std::promise<void> done;
    engine.SetResidentVariants(3, [&](const auto&) { done.set_value(); });
    done.get_future().wait();
    std::this_thread::sleep_for(20ms);
    EXPECT_EQ(engine.resident_variants(), 3);
  }
  ASSERT_EQ(reports.size(), 2u);
  EXPECT_THAT(reports[0], testing::HasSubstr("cannot be given back yet: PRECISION_IN_USE"));
  EXPECT_THAT(reports[1], testing::HasSubstr("weights resident up to q3.0"));
}

}  // namespace
}  // namespace lift
