// One answer that is sent when it is complete.
#pragma once

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <functional>
#include <memory>
#include <string>

#include "server/rpc/events.h"
#include "server/rpc/wire.h"

namespace lift::rpc {

// What is collected while the engine generates.
struct Answer {
  std::string request_id, text;
  std::vector<int32_t> token_ids;
  std::vector<api::PositionLogprobs> logprobs, prompt_logprobs;
  std::vector<api::Choice> choices;  // only where several were asked for
  api::ServedBy served_by;
  api::Finished finished;
};
// Turns it into the bytes of the RPC's own response type.
using AnswerEncoder = std::function<grpc::ByteBuffer(Answer)>;

// Owned jointly by gRPC (until OnDone) and the engine (until OnFinished). Only the engine's thread
// touches the answer.
class UnaryCall : public grpc::ServerUnaryReactor, public RequestListener {
 public:
  // Submits; a refusal ends the call with its status. `response` is filled before Finish.
  static grpc::ServerUnaryReactor* Start(ServicesPtr services, grpc::CallbackServerContext* context,
                                         Admitted admitted, const api::OutputOptions& output,
                                         AnswerEncoder encode, grpc::ByteBuffer* response);
  // A call that ends at once.
  static grpc::ServerUnaryReactor* End(grpc::CallbackServerContext* context,
                                       const absl::Status& status);

  void OnStarted(const StartedEvent& event) override;
  void OnToken(const TokenEvent& event) override;
  void OnFinished(const FinishedEvent& event) override;

  void OnCancel() override;
  void OnDone() override;

 private:
  UnaryCall(ServicesPtr services, grpc::CallbackServerContext* context,
            const EngineRequest& request, const api::OutputOptions& output, AnswerEncoder encode,
            grpc::ByteBuffer* response);

  const ServicesPtr services_;
  grpc::CallbackServerContext* const context_;
  const std::optional<EngineClock::time_point> deadline_;
  const bool want_ids_, want_logprobs_;
  const AnswerEncoder encode_;
  grpc::ByteBuffer* const response_;
  Answer answer_;
  const std::string request_id_;  // OnCancel reads this one, from any thread
  uint64_t ticket_ = 0;
  TenantQuotas::Lease lease_;
  std::shared_ptr<UnaryCall> self_;  // until OnDone
};

}  // namespace lift::rpc
