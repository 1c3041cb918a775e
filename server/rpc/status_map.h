// The one place where absl::Status becomes a gRPC status.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include <map>
#include <string>

#include "absl/status/status.h"

namespace lift::rpc {

inline constexpr const char* kErrorDomain = "liftserve.dev";

// Same canonical code and message; details carry google.rpc.ErrorInfo{reason, domain, metadata},
// BadRequest where a field is known to be wrong, QuotaFailure for a quota, RetryInfo where a retry
// makes sense.
grpc::Status ToGrpcStatus(const absl::Status& status,
                          const std::map<std::string, std::string>& metadata = {});

// Milliseconds a client should wait before it retries; -1 where retrying is pointless.
int RetryPushbackMs(const absl::Status& status);

// ToGrpcStatus, and grpc-retry-pushback-ms in the trailing metadata, which gRPC's own retry policy
// obeys. Call once per call, just before Finish.
grpc::Status FinishStatus(grpc::CallbackServerContext* context, const absl::Status& status,
                          const std::map<std::string, std::string>& metadata = {});

}  // namespace lift::rpc
