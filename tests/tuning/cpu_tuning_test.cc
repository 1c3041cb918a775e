#include "server/tuning/cpu_tuning.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace lift {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

// A home of its own.
class ResolveTuning : public testing::Test {
 protected:
  ResolveTuning()
      : folder_(fs::temp_directory_path() / ("cpu_tuning_test_" + std::to_string(getpid()))) {
    fs::create_directories(folder_);
    for (const char* name : {"LIFTSERVE_CACHE", "XDG_CACHE_HOME", "HOME"}) unsetenv(name);
    setenv("XDG_CACHE_HOME", folder_.c_str(), 1);
  }
  ~ResolveTuning() override { fs::remove_all(folder_); }

  // What no default is, of each code.
  CpuTuning Odd() const {
    CpuTuning tuning;
    int most = 5;
    for (const CodeStreams code : TunableCodes(isa_)) tuning.at(code) = most++;
    return tuning;
  }
  ResolvedTuning Resolve(const std::string& mode) { return ResolveCpuTuning(mode, pool_, isa_); }
  void ExpectConstants(const std::string& mode, const std::string& why) {
    const ResolvedTuning resolved = Resolve(mode);
    EXPECT_EQ(resolved.tuning, DefaultCpuTuning(isa_));
    EXPECT_THAT(resolved.note, HasSubstr("built-in"));
    EXPECT_THAT(resolved.note, HasSubstr(why));
  }

  // There is a choice on every x86 with AVX2, and none elsewhere.
  const CpuIsa isa_ = CpuIsaSupported(CpuIsa::kAvx2) ? CpuIsa::kAvx2 : CpuIsa::kPortable;
  const bool choice_ = isa_ != CpuIsa::kPortable;
  ThreadPool pool_{2};
  const fs::path folder_;
};

TEST_F(ResolveTuning, TheDefaultPlaceFollowsTheEnvironment) {
  EXPECT_EQ(DefaultTuningPath(), folder_ / "liftserve/cpu-tuning.json");
  setenv("LIFTSERVE_CACHE", "/else", 1);
  EXPECT_EQ(DefaultTuningPath(), "/else/cpu-tuning.json");
  unsetenv("LIFTSERVE_CACHE");
  unsetenv("XDG_CACHE_HOME");
  EXPECT_EQ(DefaultTuningPath(), "");
  if (choice_) ExpectConstants("auto", "no home");
  setenv("HOME", "/home/x", 1);
  EXPECT_EQ(DefaultTuningPath(), "/home/x/.cache/liftserve/cpu-tuning.json");
}

TEST_F(ResolveTuning, TheKeyNamesThisMachine) {
  const TuningKey key = TuningKeyHere(isa_, 3);
  EXPECT_EQ(key.isa, CpuTableName(isa_));
  EXPECT_NE(key.cpu, "");
  EXPECT_EQ(key.threads, 3);
}

TEST_F(ResolveTuning, NoChoiceNeedsNoFile) {
  const ResolvedTuning resolved = ResolveCpuTuning("measure", pool_, CpuIsa::kPortable);
  EXPECT_EQ(resolved.tuning, CpuTuning{});
  EXPECT_FALSE(fs::exists(DefaultTuningPath()));
}

TEST_F(ResolveTuning, AutoTakesWhatIsStored) {
  if (!choice_) GTEST_SKIP() << "no choice on this CPU";
  ExpectConstants("auto", "lift-bench tune");
  ASSERT_TRUE(StoreTuning(DefaultTuningPath(), MeasuredEntry(isa_, 2, Odd())).ok());
  const ResolvedTuning resolved = Resolve("auto");
  EXPECT_EQ(resolved.tuning, Odd());
  EXPECT_THAT(resolved.note, HasSubstr(DefaultTuningPath()));
  EXPECT_THAT(resolved.note, HasSubstr("1+0p 5"));
  ExpectConstants("default", "1+0p 32");
}

TEST_F(ResolveTuning, AnotherMachinesIsNotTaken) {
  if (!choice_) GTEST_SKIP() << "no choice on this CPU";
  const TuningEntry mine = MeasuredEntry(isa_, 2, Odd());
  for (const TuningKey& key : {TuningKey{"other", mine.key.cpu, 2},
                               {mine.key.isa, "other", 2},
                               {mine.key.isa, mine.key.cpu, 3}}) {
    ASSERT_TRUE(StoreTuning(DefaultTuningPath(), {key, Odd()}).ok());
  }
  ExpectConstants("auto", "has none for avx2");
  ExpectConstants(DefaultTuningPath(), "has none for avx2");
}

TEST_F(ResolveTuning, AFileOverridesAndCodesItLeavesOutKeepTheConstant) {
  if (!choice_) GTEST_SKIP() << "no choice on this CPU";
  TuningEntry entry = MeasuredEntry(isa_, 2, Odd());
  entry.tuning.at({1, 1}) = TuningEntry::kUnnamed;
  const std::string path = folder_ / "mine.json";
  ASSERT_TRUE(StoreTuning(path, entry).ok());
  CpuTuning want = Odd();
  want.at({1, 1}) = DefaultCpuTuning(isa_).at({1, 1});
  EXPECT_EQ(Resolve(path).tuning, want);
  ExpectConstants(path + ".none", "does not exist");
  std::ofstream(path) << "damaged";
  ExpectConstants(path, "is no file of CPU tunings");
}

TEST_F(ResolveTuning, MeasuringStoresAndGoesOnWhereItCannot) {
  if (!choice_) GTEST_SKIP() << "no choice on this CPU";
  const ResolvedTuning measured = Resolve("measure");
  EXPECT_EQ(AllowedCpuTuning(isa_, measured.tuning), measured.tuning);
  EXPECT_THAT(measured.note, HasSubstr("stored in"));
  EXPECT_EQ(Resolve("auto").tuning, measured.tuning);
  setenv("XDG_CACHE_HOME", "/proc/none", 1);
  EXPECT_THAT(Resolve("measure").note, HasSubstr("not stored"));
}

}  // namespace
}  // namespace lift
