// The command line -> request messages.
#pragma once

#include "liftserve/v1/generation.pb.h"
#include "server/client/options.h"

namespace lift::client {

namespace api = liftserve::v1;

api::PrecisionOptions ToPrecision(const ClientOptions& options);
// INVALID_ARGUMENT naming the flag, also below.
absl::StatusOr<api::GenerateStreamRequest> ToGenerate(const ClientOptions& options);
// Reads --messages, which must be a conversation.
absl::StatusOr<api::ChatStreamRequest> ToChat(const ClientOptions& options);

}  // namespace lift::client
