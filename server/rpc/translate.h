// Protobuf requests -> what the engine takes, with every limit checked and the offending field
// named.
#pragma once

#include <string>
#include <vector>

#include "liftserve/v1/generation.pb.h"
#include "server/rpc/service_context.h"

namespace lift::rpc {

namespace api = liftserve::v1;

// Token ids and what the router may read of a prompt.
struct Prompt {
  std::vector<int32_t> ids;
  std::string text;  // of the last user turn
  int64_t turns = 1;
};

absl::StatusOr<Prompt> TextPrompt(const ServiceContext& context, const std::string& text,
                                  bool parse_special);
absl::StatusOr<Prompt> TokenPrompt(const ServiceContext& context, const api::TokenIds& ids);
// FAILED_PRECONDITION (NO_CHAT_TEMPLATE) if the model has no template.
absl::StatusOr<Prompt> ChatPrompt(
    const ServiceContext& context,
    const google::protobuf::RepeatedPtrField<api::ChatMessage>& messages);

absl::StatusOr<router::PrecisionRequest> ToPrecision(const api::PrecisionOptions& options);

// The parts of a request besides its prompt, as the four generation RPCs share them.
struct RequestParts {
  const std::string& request_id;
  const api::SamplingOptions& sampling;
  const api::StoppingOptions& stopping;
  const api::OutputOptions& output;
  const api::PrecisionOptions& precision;
  const api::CacheOptions& cache;
  const api::Constraint& constraint;
  int32_t priority;
};
template <class Request>
RequestParts PartsOf(const Request& request) {
  return {request.request_id(), request.sampling(), request.stopping(),   request.output(),
          request.precision(),  request.cache(),    request.constraint(), request.priority()};
}

// Makes a request id and a seed where the client gave none.
absl::StatusOr<EngineRequest> ToEngineRequest(const ServiceContext& context,
                                              const RequestParts& parts, Prompt prompt,
                                              const Caller& caller);

}  // namespace lift::rpc
