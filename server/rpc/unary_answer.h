// Calls that are answered on the spot.
#pragma once

#include "server/rpc/unary_call.h"
#include "server/rpc/wire.h"

namespace lift::rpc {

// Parses, runs `answer(request, response) -> absl::Status` and finishes the call.
template <class Request, class Response, class F>
grpc::ServerUnaryReactor* AnswerNow(grpc::CallbackServerContext* context,
                                    const grpc::ByteBuffer* in, grpc::ByteBuffer* out, F&& answer) {
  Request request;
  Response response;
  absl::Status status = ParseMessage(*in, request);
  if (status.ok()) status = answer(request, response);
  if (status.ok()) *out = SerializeMessage(response);
  return UnaryCall::End(context, status);
}

}  // namespace lift::rpc
