#include "kernels/base/mapped_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "kernels/base/sha256.h"

namespace lift {
namespace {

namespace fs = std::filesystem;

class MappedFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("lift_mapped_" + std::to_string(::getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::string Write(const std::string& name, const std::string& text) {
    const fs::path path = folder_ / name;
    std::ofstream(path, std::ios::binary) << text;
    return path.string();
  }
  fs::path folder_;
};

std::span<const std::byte> Bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// Resident bytes of the mapping that holds `at`, from the kernel's own account.
uint64_t ResidentBytes(const void* at) {
  std::ifstream smaps("/proc/self/smaps");
  std::string line;
  bool inside = false;
  while (std::getline(smaps, line)) {
    unsigned long long begin = 0, end = 0, kib = 0;
    if (std::sscanf(line.c_str(), "%llx-%llx ", &begin, &end) == 2) {
      const auto address = reinterpret_cast<uintptr_t>(at);
      inside = address >= begin && address < end;
    } else if (inside && std::sscanf(line.c_str(), "Rss: %llu kB", &kib) == 1) {
      return kib * 1024;
    }
  }
  return 0;
}

TEST_F(MappedFileTest, ReleasedPagesLeaveMemoryAndReadTheSameAgain) {
  std::string text(1 << 20, 'a');
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>('a' + i % 23);
  const auto file = MappedFile::Open(Write("big", text));
  ASSERT_TRUE(file.ok()) << file.status();
  const auto bytes = (*file)->bytes();
  (*file)->Prefetch(bytes);
  EXPECT_EQ(ResidentBytes(bytes.data()), text.size());
  // Only whole pages inside the part go: both borders are in use.
  (*file)->Release(bytes.subspan(256 * 1024 + 1, 512 * 1024));
  EXPECT_LE(ResidentBytes(bytes.data()), text.size() - 512 * 1024 + 4096);
  EXPECT_GE(ResidentBytes(bytes.data()), text.size() - 512 * 1024);
  (*file)->Release(bytes.last(1));  // less than a page: nothing to give back
  EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()), text);
  EXPECT_EQ(ResidentBytes(bytes.data()), text.size());
}

TEST_F(MappedFileTest, HashingLeavesNothingResident) {
  const std::string text(3 << 20, 'b');
  const auto file = MappedFile::Open(Write("hashed", text));
  ASSERT_TRUE(file.ok()) << file.status();
  const auto bytes = (*file)->bytes();
  (*file)->Prefetch(bytes);
  Sha256 sha;
  HashMapped(bytes, sha);
  EXPECT_EQ(sha.HexDigest(), Sha256Hex(Bytes(text)));
  EXPECT_EQ(ResidentBytes(bytes.data()), 0u);
  EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()), text);
}

TEST_F(MappedFileTest, MapsTheWholeFileAndOutlivesItsName) {
  const std::string path = Write("a", std::string("x\0y", 3));
  const auto file = MappedFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  fs::remove(path);
  ASSERT_EQ((*file)->bytes().size(), 3u);
  EXPECT_EQ((*file)->bytes()[2], std::byte{'y'});
  EXPECT_EQ((*file)->path(), path);
}

TEST_F(MappedFileTest, ErrorsNameThePath) {
  const auto expect = [](const std::string& path, absl::StatusCode code) {
    const absl::Status status = MappedFile::Open(path).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_NE(std::string(status.message()).find(path), std::string::npos) << status;
  };
  expect((folder_ / "absent").string(), absl::StatusCode::kNotFound);
  expect(folder_.string(), absl::StatusCode::kInvalidArgument);
  expect(Write("empty", ""), absl::StatusCode::kInvalidArgument);
  expect(Write("file", "x") + "/below", absl::StatusCode::kNotFound);
  const std::string fifo = (folder_ / "fifo").string();
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  expect(fifo, absl::StatusCode::kInvalidArgument);  // and does not hang
}

TEST_F(MappedFileTest, UnreadableIsPermissionDenied) {
  if (::geteuid() == 0) GTEST_SKIP() << "root reads everything";
  const std::string path = Write("secret", "x");
  ASSERT_EQ(::chmod(path.c_str(), 0), 0);
  EXPECT_EQ(MappedFile::Open(path).status().code(), absl::StatusCode::kPermissionDenied);
}

TEST(Sha256Test, KnownDigests) {
  EXPECT_EQ(Sha256Hex({}), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256Hex(Bytes("abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Sha256Test, PiecesGiveTheSameDigest) {
  Sha256 sha;
  sha.Update(Bytes("a"));
  sha.Update({});
  sha.Update(Bytes("bc"));
  EXPECT_EQ(sha.HexDigest(), Sha256Hex(Bytes("abc")));
}

}  // namespace
}  // namespace lift
