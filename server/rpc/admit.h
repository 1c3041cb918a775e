// The one way from a GenerateRequest to the engine, for every protocol.
#pragma once

#include "liftserve/v1/generation.pb.h"
#include "server/rpc/service_context.h"

namespace lift::rpc {

// Checks, translates, asks the tenant's quota; tells the observer of a refusal.
absl::StatusOr<Admitted> Admit(const ServiceContext& services, const Caller& caller,
                               const liftserve::v1::GenerateRequest& request);

// A refusal that never reached the engine, for the metrics. Returns `status`.
absl::Status NoteRefusal(const ServiceContext& services, const std::string& tenant,
                         absl::Status status);

}  // namespace lift::rpc
