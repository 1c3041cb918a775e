// Sends a workload to a server and notes what comes back.
#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <vector>

#include "tests/bench/serve/summary.h"
#include "tests/bench/serve/workload.h"

namespace lift::bench {

struct DriveResult {
  std::vector<Outcome> outcomes;
  double elapsed_seconds = 0;  // until the last answer ended
};

// `channels`: used in turn. Blocks until every request has ended.
DriveResult Drive(const ServeFlags& flags, Workload workload,
                  const std::vector<std::shared_ptr<grpc::Channel>>& channels,
                  const std::string& api_key);

}  // namespace lift::bench
