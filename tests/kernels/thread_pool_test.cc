#include "kernels/base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace lift {
namespace {

class ThreadPoolTest : public testing::TestWithParam<int> {};

TEST_P(ThreadPoolTest, EveryItemExactlyOnceOverManyLoops) {
  ThreadPool pool(GetParam());
  EXPECT_EQ(pool.threads(), GetParam());
  for (int round = 0; round < 300; ++round) {
    const int64_t count = round % 50, grain = 1 + round % 7;
    std::vector<int> hits(static_cast<size_t>(count));  // plain ints: a race is a TSan report
    pool.ParallelFor(count, grain, [&](int64_t begin, int64_t end, int thread) {
      EXPECT_LE(end - begin, grain);
      EXPECT_GE(thread, 0);
      EXPECT_LT(thread, GetParam());
      for (int64_t i = begin; i < end; ++i) ++hits[static_cast<size_t>(i)];
    });
    for (const int hit : hits) ASSERT_EQ(hit, 1);
  }
}

TEST_P(ThreadPoolTest, WorksAgainAfterTheWorkersParked) {
  ThreadPool pool(GetParam());
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::atomic<int64_t> sum{0};
    pool.ParallelFor(1000, 10, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) sum += i;
    });
    EXPECT_EQ(sum.load(), 999 * 1000 / 2);
  }
}

TEST_P(ThreadPoolTest, NothingToDoNeverCallsTheBody) {
  ThreadPool pool(GetParam());
  pool.ParallelFor(0, 1, [](int64_t, int64_t, int) { FAIL(); });
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, testing::Values(1, 2, 4, 7));

TEST(ThreadPoolSharing, AllThreadsTakePart) {
  ThreadPool pool(3);
  std::atomic<int> inside{0};
  std::atomic<bool> met{false};
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  pool.ParallelFor(3, 1, [&](int64_t, int64_t, int) {  // each waits until all three are here
    if (++inside == 3) met = true;
    while (!met && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  });
  EXPECT_TRUE(met.load());
}

TEST(ThreadPoolDeathTest, OneLoopAtATime) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        ThreadPool pool(2);
        pool.ParallelFor(1, 1, [&](int64_t, int64_t, int) {
          pool.ParallelFor(1, 1, [](int64_t, int64_t, int) {});
        });
      },
      "CHECK failed");
}

TEST(AvailableCoresTest, AtLeastOneAndNoMoreThanTheMachine) {
  EXPECT_GE(AvailableCores(), 1);
  EXPECT_LE(AvailableCores(), static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace
}  // namespace lift
