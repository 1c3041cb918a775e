// Calls that are answered on the spot.
#pragma once

#include "server/rpc/model_slot.h"
#include "server/rpc/unary_call.h"
#include "server/rpc/wire.h"

namespace lift::rpc {

// Authenticates, parses, runs `answer(services, request, response, caller) -> absl::Status` (the
// last may be left out) and finishes the call.
template <class Request, class Response, class F>
grpc::ServerUnaryReactor* AnswerNow(const ModelSlot& slot, grpc::CallbackServerContext* context,
                                    const grpc::ByteBuffer* in, grpc::ByteBuffer* out, F&& answer) {
  Request request;
  Response response;
  const absl::StatusOr<Caller> caller = CallerOf(slot.shared(), *context);
  absl::Status status = caller.status();
  if (status.ok()) status = ParseMessage(*in, request);
  if (status.ok()) {
    const ServicesPtr services = slot.current();
    if constexpr (std::is_invocable_v<F, const ServiceContext&, const Request&, Response&,
                                      const Caller&>) {
      status = answer(*services, request, response, *caller);
    } else {
      status = answer(*services, request, response);
    }
  }
  if (status.ok()) *out = SerializeMessage(response);
  return UnaryCall::End(context, status);
}

}  // namespace lift::rpc
