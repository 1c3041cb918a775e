// What calls tell a balancer of the server's load.
#include "server/rpc/load_report.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace lift::rpc
