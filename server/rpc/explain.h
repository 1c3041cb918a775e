// The dry run of the router.
#pragma once

#include "liftserve/v1/generation.pb.h"
#include "server/rpc/service_context.h"

namespace lift::rpc {

// What would serve the request and what each variant would cost, from the text alone: no prefill is
// run.
absl::Status Explain(const ServiceContext& services,
                     const liftserve::v1::ExplainRouteRequest& request,
                     liftserve::v1::ExplainRouteResponse& response);

}  // namespace lift::rpc
