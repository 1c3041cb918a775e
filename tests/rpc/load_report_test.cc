// What calls tell a balancer of the server's load.
#include "server/rpc/load_report.h"

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <thread>

#include "xds/data/orca/v3/orca_load_report.pb.h"

namespace lift::rpc {
namespace {

// Without a rate weighted_round_robin takes the report for none at all.
TEST(LoadReport, HasTheRateOfCallsThatABalancerWeighsBy) {
  LoadReporter reporter;
  const auto start = std::chrono::steady_clock::now();
  int calls = 0;
  double rate = 0, seconds = 0;
  while (rate == 0 && seconds < 60) {
    rate = reporter.Report({}).rps_fractional();
    ++calls;
    seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_GT(rate, 0);
  EXPECT_LE(rate * seconds, calls * 1.01);  // no more calls than there were
}

TEST(LoadReport, HasStateAndQueue) {
  LoadReporter reporter;
  const auto report =
      reporter.Report({.running = 3, .waiting = 2, .blocks_used = 25, .blocks_total = 100});
  EXPECT_DOUBLE_EQ(report.application_utilization(), 0.25);
  EXPECT_DOUBLE_EQ(report.named_metrics().at("requests_running"), 3);
  EXPECT_DOUBLE_EQ(report.named_metrics().at("requests_waiting"), 2);
}

// As they do when streams end on gRPC's threads and other answers on the engine's.
TEST(LoadReport, CallsMayEndOnSeveralThreads) {
  LoadReporter reporter;
  const auto start = std::chrono::steady_clock::now();
  std::array<int64_t, 2> calls{};
  std::array<std::thread, 2> threads;
  for (size_t i = 0; i < threads.size(); ++i) {
    threads[i] = std::thread([&reporter, &mine = calls[i], start] {
      while (std::chrono::steady_clock::now() - start < std::chrono::milliseconds(400)) {
        reporter.Report({});
        ++mine;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double rate = reporter.Report({}).rps_fractional();
  EXPECT_GT(rate, 0);
  EXPECT_LE(rate * 0.25, static_cast<double>(calls[0] + calls[1] + 1));  // its shortest interval
}

}  // namespace
}  // namespace lift::rpc
