// audit verify, audit parity: rows of the log of routing decisions from a ledger's file or from a
// server, and what is printed of them.
#pragma once

#include <functional>
#include <string>

#include "liftserve/v1/usage.grpc.pb.h"
#include "server/billing/decision_rows.h"
#include "server/client/billing.h"
#include "server/client/options.h"

namespace lift::client {

struct DecisionBatch {
  DecisionPage page = {};
  bool complete = true;  // nothing is left out, see ListRoutingDecisionsResponse
  bool last = false;
};
// The batch after a position. Errors: those of the file or the call.
using ReadDecisions = std::function<absl::StatusOr<DecisionBatch>(int64_t after)>;

// --ledger, opened read only.
absl::StatusOr<ReadDecisions> FromFile(const ClientOptions& options, const Period& period);
// `call` makes one call with what every call carries.
using ListCall = std::function<grpc::Status(const api::ListRoutingDecisionsRequest&,
                                            api::ListRoutingDecisionsResponse*)>;
ReadDecisions FromServer(const ClientOptions& options, const Period& period, ListCall call);

struct AuditAnswer {
  std::string text;    // for stdout
  bool found = false;  // a fault, or a difference
};
// INVALID_ARGUMENT for a head or key that cannot be read, or a key that is missing.
absl::StatusOr<AuditAnswer> VerifyLog(const ClientOptions& options, const ReadDecisions& read);
absl::StatusOr<AuditAnswer> CompareLog(const ClientOptions& options, const ReadDecisions& read);

}  // namespace lift::client
