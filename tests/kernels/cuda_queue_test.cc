// The queue of a step's commands: staging, graphs, transfers.
#include <gtest/gtest.h>

#include <cstdint>
#include <numeric>
#include <vector>

#include "kernels/cuda/command_queue.h"
#include "kernels/cuda/resident_memory.h"
#include "kernels/cuda/vector_ops.h"

namespace lift::cuda {
namespace {

std::vector<float> Counting(size_t count) {
  std::vector<float> values(count);
  std::iota(values.begin(), values.end(), 0.0f);
  return values;
}

class CudaQueue : public ::testing::Test {
 protected:
  float* Allocate(size_t floats) {
    return static_cast<float*>(*memory_.Allocate(floats * sizeof(float), MemoryKind::kWorkspace));
  }
  std::vector<float> Read(const float* from, size_t count) {
    std::vector<float> values(count);
    queue_.Download(from, count * sizeof(float), values.data());
    return values;
  }
  // Six commands: to = 2^6 * from.
  void Double(const float* from, int64_t n, float* to) {
    for (int i = 0; i < 6; ++i)
      QueueElementwise(queue_, Elementwise::kScale, i == 0 ? from : to, nullptr, n, n, 2, to);
  }

  ResidentMemory memory_;
  CommandQueue queue_;
};

TEST_F(CudaQueue, StagedMemoryIsAlignedAfterNothingToo) {
  const int32_t value = 7;
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(queue_.Stage(nullptr, 0)) % 16, 0u);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(queue_.Stage(&value, sizeof(value))) % 16, 0u);
  }
}

// What was staged before the memory grew is where the commands look for it.
TEST_F(CudaQueue, StagingGrowsUnderCommandsThatAreQueued) {
  constexpr size_t kFloats = size_t{1} << 19;  // twice the first chunk
  const std::vector<float> small = Counting(100), large = Counting(kFloats);
  float *a = Allocate(100), *b = Allocate(kFloats);
  for (int round = 0; round < 3; ++round) {
    Double(queue_.StageAll(std::span<const float>(small)), 100, a);
    Double(queue_.StageAll(std::span<const float>(large)), kFloats, b);
    const std::vector<float> got_a = Read(a, 100), got_b = Read(b, kFloats);
    for (size_t i = 0; i < 100; ++i) EXPECT_EQ(got_a[i], 64 * small[i]);
    for (size_t i = 0; i < kFloats; i += 997) EXPECT_EQ(got_b[i], 64 * large[i]);
  }
}

TEST_F(CudaQueue, EqualBatchesAreReplayedWithWhatIsStagedNow) {
  float* to = Allocate(10);
  for (int step = 0; step < 5; ++step) {
    std::vector<float> values = Counting(10);
    for (float& value : values) value += static_cast<float>(step);
    Double(queue_.StageAll(std::span<const float>(values)), 10, to);
    const std::vector<float> got = Read(to, 10);
    for (size_t i = 0; i < 10; ++i) EXPECT_EQ(got[i], 64 * values[i]);
    EXPECT_EQ(queue_.replays(), static_cast<uint64_t>(step));  // the second time on
  }
}

TEST_F(CudaQueue, OtherBatchesAreNotReplayed) {
  float *to = Allocate(10), *other = Allocate(10);
  const std::vector<float> values = Counting(10);
  const auto run = [&](int64_t n, float* where) {
    Double(queue_.StageAll(std::span<const float>(values)), n, where);
    return Read(where, 10);
  };
  run(10, to);
  EXPECT_EQ(run(9, to)[9], 64 * 9.0f);  // nine elements: the tenth is the first batch's
  run(10, other);
  EXPECT_EQ(queue_.replays(), 0u);
  run(10, to);
  EXPECT_EQ(queue_.replays(), 1u);
}

TEST_F(CudaQueue, RowsAreBroughtBackWithoutWhatLiesBetween) {
  float* to = Allocate(12);
  const std::vector<float> values = Counting(12);
  queue_.Upload(values.data(), 12 * sizeof(float), to);
  std::vector<float> host(12, -1.0f);
  queue_.DownloadRows(to, 2 * sizeof(float), 4 * sizeof(float), 3, host.data());
  EXPECT_EQ(host, (std::vector<float>{0, 1, -1, -1, 4, 5, -1, -1, 8, 9, -1, -1}));
}

TEST_F(CudaQueue, UploadsTakePlaceInOrder) {
  float* to = Allocate(4);
  std::vector<float> values = Counting(4);
  queue_.UploadLater(values.data(), 4 * sizeof(float), to);
  values.assign(4, -5.0f);  // too late for what was queued
  EXPECT_EQ(Read(to, 4), Counting(4));
}

TEST(CudaResidentMemory, FindsBuffersAndAdoptedWeights) {
  ResidentMemory memory;
  std::vector<std::byte> host(1000);
  EXPECT_EQ(memory.Find(host.data()), nullptr);
  auto* device = static_cast<std::byte*>(*memory.Adopt(host));
  EXPECT_EQ(memory.Find(host.data() + 999), device + 999);
  EXPECT_EQ(memory.Find(host.data() + 1000), nullptr);
  EXPECT_EQ(*memory.Adopt(host), nullptr);  // there already
  EXPECT_EQ(memory.bytes(MemoryKind::kWeights), 1000u);
  ASSERT_NE(*memory.Adopt(std::span(host).first(300)), nullptr);
  EXPECT_EQ(memory.bytes(MemoryKind::kWeights), 300u);
  EXPECT_EQ(memory.Find(host.data() + 300), nullptr);
  void* buffer = *memory.Allocate(64, MemoryKind::kState);
  EXPECT_EQ(memory.Find(static_cast<std::byte*>(buffer) + 63),
            static_cast<std::byte*>(buffer) + 63);
  memory.Abandon(host);
  EXPECT_EQ(memory.Find(host.data()), nullptr);
  EXPECT_EQ(memory.bytes(MemoryKind::kWeights), 0u);
  memory.Retire(buffer);
  EXPECT_EQ(memory.bytes(MemoryKind::kState), 64u);
  memory.FreeRetired();
  EXPECT_EQ(memory.bytes(MemoryKind::kState), 0u);
}

// More than any device has.
TEST(CudaResidentMemory, SaysWhatADeviceHasLeft) {
  ResidentMemory memory;
  const auto got = memory.Allocate(size_t{1} << 50, MemoryKind::kState);
  EXPECT_EQ(got.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(std::string(got.status().message()).find("MiB are free"), std::string::npos);
}

}  // namespace
}  // namespace lift::cuda
