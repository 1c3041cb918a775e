// Engine events -> protobuf.
#pragma once

#include <map>
#include <string>

#include "liftserve/v1/types.pb.h"
#include "server/rpc/service_context.h"

namespace lift::rpc {

namespace api = liftserve::v1;

api::ServedBy ToServedBy(const ModelInfo& model, const BuildInfo& build,
                         const router::Decision& decision, int variant);
api::Finished ToFinished(const ModelInfo& model, const FinishedEvent& event);
api::ChoiceEnd ToChoiceEnd(const ChoiceEnd& end, int index);
api::PositionLogprobs ToLogprobs(const SampledToken& token);

// The keys of initial metadata that tell what serves a call.
std::map<std::string, std::string> ServedByMetadata(const std::string& request_id,
                                                    const api::ServedBy& served_by);

// The status a call ends with: OK for kStop and kLength; UNAVAILABLE DRAINING where the server, not
// the client, ended it.
absl::Status FinalStatus(const FinishedEvent& event, bool aborting);

}  // namespace lift::rpc
