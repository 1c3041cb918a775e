#include "server/tuning/tuning_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace lift {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr char kGood[] =
    R"({"format": "liftserve-cpu-tuning", "version": 1, "entries": [
        {"isa": "avx2", "cpu": "a", "threads": 2, "most_columns": {"1+0p": 0, "2+1p": 32}}]})";

TuningEntry Entry(const std::string& cpu, int threads, int most) {
  TuningEntry entry{{"avx2", cpu, threads}, {}};
  for (auto& row : entry.tuning.most) std::fill(row, std::end(row), TuningEntry::kUnnamed);
  entry.tuning.at({2, 1}) = most;
  return entry;
}

// `from` in kGood becomes `to`.
std::string Changed(const std::string& from, const std::string& to) {
  std::string text = kGood;
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

class TuningFile : public testing::Test {
 protected:
  TuningFile()
      : folder_(fs::temp_directory_path() / ("tuning_file_test_" + std::to_string(getpid()))) {
    fs::create_directories(folder_);
  }
  ~TuningFile() override { fs::remove_all(folder_); }
  std::string Path(const std::string& name = "cpu-tuning.json") const { return folder_ / name; }
  void Write(const std::string& text) const { std::ofstream(Path()) << text; }
  std::string Text() const {
    std::ifstream in(Path());
    return {std::istreambuf_iterator<char>(in), {}};
  }

  const fs::path folder_;
};

TEST_F(TuningFile, IsReadAsDocumented) {
  const auto entries = ParseTunings(kGood);
  ASSERT_TRUE(entries.ok()) << entries.status();
  ASSERT_EQ(entries->size(), 1u);
  EXPECT_EQ(entries->front().key, (TuningKey{"avx2", "a", 2}));
  EXPECT_EQ(entries->front().tuning.at({1, 0}), 0);
  EXPECT_EQ(entries->front().tuning.at({2, 1}), 32);
  EXPECT_EQ(entries->front().tuning.at({3, 0}), TuningEntry::kUnnamed);
}

TEST_F(TuningFile, KeepsWhatIsStored) {
  const std::string path = Path("some/folders/tuning.json");
  ASSERT_TRUE(StoreTuning(path, Entry("a", 2, 4)).ok());
  ASSERT_TRUE(StoreTuning(path, Entry("a", 4, 8)).ok());
  ASSERT_TRUE(StoreTuning(path, Entry("b \"quoted\"\n", 2, 0)).ok());
  ASSERT_TRUE(StoreTuning(path, Entry("a", 2, 16)).ok());  // in the place of the first
  const auto entries = ReadTunings(path);
  ASSERT_TRUE(entries.ok()) << entries.status();
  EXPECT_THAT(*entries, testing::ElementsAre(Entry("a", 2, 16), Entry("b \"quoted\"\n", 2, 0),
                                             Entry("a", 4, 8)));
  EXPECT_EQ(std::distance(fs::directory_iterator(fs::path(path).parent_path()), {}), 1);
}

TEST_F(TuningFile, ForgetsTheOldestOfVeryMany) {
  for (int threads = 1; threads <= 70; ++threads) {
    ASSERT_TRUE(StoreTuning(Path(), Entry("a", threads, 4)).ok());
  }
  const auto entries = ReadTunings(Path());
  ASSERT_TRUE(entries.ok()) << entries.status();
  EXPECT_EQ(entries->size(), 64u);
  EXPECT_EQ(entries->front().key.threads, 70);
}

TEST_F(TuningFile, WrongTextIsRefused) {
  const std::string texts[] = {"",
                               "x",
                               "[]",
                               "null",
                               "{}",
                               std::string(40, '\0'),
                               std::string(300000, ' '),
                               std::string(100000, '['),
                               std::string(kGood).substr(0, 90),
                               Changed("liftserve", "other"),
                               Changed("1, \"entries", "\"1\", \"entries"),
                               Changed("\"version\": 1,", ""),
                               Changed("[\n", "[7,\n"),
                               Changed("\"avx2\"", "2"),
                               Changed("\"a\"", "\"\""),
                               Changed("\"a\"", '"' + std::string(300, 'a') + '"'),
                               Changed("\"threads\": 2", "\"threads\": 0"),
                               Changed("\"threads\": 2", "\"threads\": 2.5"),
                               Changed("\"threads\": 2", "\"t\": 2"),
                               Changed("32", "33"),
                               Changed("32", "-1"),
                               Changed("32", "1.0"),
                               Changed("32", "\"32\""),
                               Changed("32", "18446744073709551615"),
                               Changed("32", "1e400"),
                               Changed("2+1p", "9+9p"),
                               Changed("2+1p", "0+1p"),
                               Changed("most_columns", "most")};
  for (const std::string& text : texts) {
    const auto entries = ParseTunings(text);
    EXPECT_EQ(entries.status().code(), absl::StatusCode::kInvalidArgument)
        << text.substr(0, 200) << "\n"
        << entries.status();
  }
  EXPECT_EQ(ParseTunings(Changed("version\": 1", "version\": 2")).status().code(),
            absl::StatusCode::kUnimplemented);
}

TEST_F(TuningFile, WhatIsNoFileIsNamed) {
  EXPECT_TRUE(absl::IsNotFound(ReadTunings(Path("none")).status()));
  EXPECT_FALSE(ReadTunings(folder_).ok());
  ASSERT_EQ(mkfifo(Path("pipe").c_str(), 0600), 0);
  EXPECT_THAT(std::string(ReadTunings(Path("pipe")).status().message()), HasSubstr("is no file"));
  EXPECT_FALSE(ReadTunings("/dev/zero").ok());
}

TEST_F(TuningFile, NeverReplacesAFileThatIsSomethingElse) {
  for (const std::string& text : {std::string("precious"), std::string(300000, 'x')}) {
    Write(text);
    const absl::Status status = StoreTuning(Path(), Entry("a", 2, 4));
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(Path()));
    EXPECT_EQ(Text(), text);
  }
  Write(Changed("version\": 1", "version\": 2"));
  EXPECT_TRUE(StoreTuning(Path(), Entry("a", 2, 4)).ok());
  EXPECT_THAT(*ReadTunings(Path()), testing::ElementsAre(Entry("a", 2, 4)));
}

TEST_F(TuningFile, AFolderThatIsNotWritableIsAnError) {
  EXPECT_FALSE(StoreTuning("/proc/liftserve/tuning.json", Entry("a", 2, 4)).ok());
  EXPECT_FALSE(StoreTuning("/dev/null/tuning.json", Entry("a", 2, 4)).ok());
  if (getuid() == 0) return;  // who may write everywhere
  ASSERT_EQ(chmod(folder_.c_str(), 0500), 0);
  EXPECT_FALSE(StoreTuning(Path(), Entry("a", 2, 4)).ok());
  EXPECT_EQ(chmod(folder_.c_str(), 0700), 0);
}

}  // namespace
}  // namespace lift
