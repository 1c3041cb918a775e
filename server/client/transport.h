// The channel a command line asks for, and the key its calls carry.
#pragma once

#include <grpcpp/channel.h>

#include <memory>

#include "absl/status/statusor.h"
#include "server/client/options.h"

namespace lift::client {

// INVALID_ARGUMENT naming the file that cannot be read.
absl::StatusOr<std::shared_ptr<grpc::Channel>> Connect(const ClientOptions& options);

// From --api-key-file, else from LIFTSERVE_API_KEY, else empty. There is no flag for the key
// itself: every user of a machine can read command lines.
absl::StatusOr<std::string> ReadApiKey(const ClientOptions& options);

}  // namespace lift::client
