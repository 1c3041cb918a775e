// The load a call's trailers report (ORCA), for clients and proxies that balance by it.
#pragma once

#include <grpcpp/server_context.h>

#include <mutex>

#include "server/engine/engine.h"

namespace xds::data::orca::v3 {
class OrcaLoadReport;
}  // namespace xds::data::orca::v3

namespace lift::rpc {

// Thread-safe.
class LoadReporter {
 public:
  // Adds endpoint-load-metrics-bin. Once per call, before Finish. (gRPC's own clients take it out
  // of the trailers for their balancer; applications do not see it.)
  void AddTo(grpc::CallbackServerContext& context, const EngineLoad& load);
  // What it adds; counts as a call. weighted_round_robin weighs by rps_fractional over
  // application_utilization (or cpu_utilization where that is 0) and ignores a report without rate.
  xds::data::orca::v3::OrcaLoadReport Report(const EngineLoad& load);

 private:
  void Sample();  // mutex_ is held

  std::mutex mutex_;
  double cpu_seconds_ = 0, utilization_ = 0, calls_per_second_ = 0;
  int64_t calls_ = 0;  // since sampled_
  EngineClock::time_point sampled_ = EngineClock::now();
};

}  // namespace lift::rpc
