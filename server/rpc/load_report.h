// The load a call's trailers report (ORCA), for clients and proxies that balance by it.
#pragma once

#include <grpcpp/server_context.h>

#include <mutex>

#include "server/engine/engine.h"

namespace lift::rpc {

// Thread-safe.
class LoadReporter {
 public:
  // Adds endpoint-load-metrics-bin. Once per call, before Finish. (gRPC's own clients take it out
  // of the trailers for their balancer; applications do not see it.)
  void AddTo(grpc::CallbackServerContext& context, const EngineLoad& load);

 private:
  double CpuUtilization();

  std::mutex mutex_;
  double cpu_seconds_ = 0, utilization_ = 0;
  EngineClock::time_point sampled_ = EngineClock::now();
};

}  // namespace lift::rpc
