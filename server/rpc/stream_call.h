// One streaming answer: engine events in on the engine's thread, messages out as fast as the reader
// takes them.
#pragma once

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "server/rpc/events.h"
#include "server/rpc/wire.h"

namespace lift::rpc {

// Turns an event into the bytes of the RPC's own response type.
using StreamEvent = std::variant<api::Started, api::Delta, api::Finished>;
// The messages of an event, none if the RPC has none for it. Called in order, one event at a time.
using EventEncoder = std::function<std::vector<grpc::ByteBuffer>(StreamEvent)>;

template <class Response>
std::vector<grpc::ByteBuffer> EncodeEvent(StreamEvent event) {
  Response response;
  if (auto* started = std::get_if<api::Started>(&event)) response.mutable_started()->Swap(started);
  if (auto* delta = std::get_if<api::Delta>(&event)) response.mutable_delta()->Swap(delta);
  if (auto* finished = std::get_if<api::Finished>(&event)) {
    response.mutable_finished()->Swap(finished);
  }
  return {SerializeMessage(response)};
}

// One write is in flight at a time. What arrives meanwhile is merged into one pending Delta, so a
// slow reader costs at most the memory of its own answer and holds up nobody. Finish is called
// once, after the engine's OnFinished, when everything is written or a write has failed. Owned
// jointly by gRPC (until OnDone) and the engine (until OnFinished).
class StreamCall : public grpc::ServerWriteReactor<grpc::ByteBuffer>, public RequestListener {
 public:
  // Submits; a refusal ends the call with its status. The reactor to hand to gRPC.
  static grpc::ServerWriteReactor<grpc::ByteBuffer>* Start(ServicesPtr services,
                                                           grpc::CallbackServerContext* context,
                                                           Admitted admitted,
                                                           const api::OutputOptions& output,
                                                           EventEncoder encode);
  // A call that ends at once.
  static grpc::ServerWriteReactor<grpc::ByteBuffer>* Refuse(grpc::CallbackServerContext* context,
                                                            const absl::Status& status);

  void OnStarted(const StartedEvent& event) override;
  void OnToken(const TokenEvent& event) override;
  void OnFinished(const FinishedEvent& event) override;

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  StreamCall(ServicesPtr services, grpc::CallbackServerContext* context,
             const EngineRequest& request, const api::OutputOptions& output, EventEncoder encode);
  // Starts the next write, or finishes the call, if neither is under way.
  void Pump();
  std::optional<StreamEvent> TakeNext();  // mutex_ held

  const ServicesPtr services_;
  grpc::CallbackServerContext* const context_;
  const std::string request_id_;
  const std::optional<EngineClock::time_point> deadline_;
  const bool want_ids_, want_logprobs_;
  const EventEncoder encode_;
  uint64_t ticket_ = 0;
  TenantQuotas::Lease lease_;
  std::shared_ptr<StreamCall> self_;  // until OnDone

  std::mutex mutex_;
  std::optional<api::Started> started_;    // not yet written
  std::map<int, api::Delta> deltas_;       // by answer, not yet written
  std::optional<api::Finished> finished_;  // not yet written
  std::optional<absl::Status> final_status_;
  bool writing_ = false, broken_ = false, done_ = false;
  std::deque<grpc::ByteBuffer> encoded_;  // not yet written; whoever sets writing_ touches it
  grpc::ByteBuffer buffer_;               // of the write in flight
};

}  // namespace lift::rpc
