#include "server/rpc/load_report.h"

#include <sys/resource.h>

#include <algorithm>
#include <thread>

#include "xds/data/orca/v3/orca_load_report.pb.h"

namespace lift::rpc {
namespace {

constexpr double kSampleSeconds = 0.25;  // shorter intervals measure the clock

double ProcessCpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace

void LoadReporter::Sample() {
  const auto now = EngineClock::now();
  const double elapsed = std::chrono::duration<double>(now - sampled_).count();
  if (elapsed < kSampleSeconds) return;
  const double used = ProcessCpuSeconds();
  const double cores = std::max(1u, std::thread::hardware_concurrency());
  utilization_ = (used - cpu_seconds_) / elapsed / cores;
  calls_per_second_ = static_cast<double>(calls_) / elapsed;
  cpu_seconds_ = used;
  calls_ = 0;
  sampled_ = now;
}

xds::data::orca::v3::OrcaLoadReport LoadReporter::Report(const EngineLoad& load) {
  xds::data::orca::v3::OrcaLoadReport report;
  const double state = load.blocks_total == 0 ? 0
                                              : static_cast<double>(load.blocks_used) /
                                                    static_cast<double>(load.blocks_total);
  {
    const std::lock_guard lock(mutex_);
    ++calls_;
    Sample();
    report.set_cpu_utilization(utilization_);
    report.set_rps_fractional(calls_per_second_);
  }
  report.set_mem_utilization(state);
  report.set_application_utilization(state);
  auto& named = *report.mutable_named_metrics();
  named["kv_cache_usage_ratio"] = state;
  named["requests_running"] = static_cast<double>(load.running);
  named["requests_waiting"] = static_cast<double>(load.waiting);
  return report;
}

void LoadReporter::AddTo(grpc::CallbackServerContext& context, const EngineLoad& load) {
  context.AddTrailingMetadata("endpoint-load-metrics-bin", Report(load).SerializeAsString());
}

}  // namespace lift::rpc
