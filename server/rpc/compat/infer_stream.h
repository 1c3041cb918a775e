// ModelStreamInfer: many inferences over one call.
#pragma once

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "server/rpc/compat/oip_tensors.h"
#include "server/rpc/model_slot.h"

namespace lift::rpc {

// Owned by gRPC (until OnDone) and by the inferences under way. Reads stop while kMaxInFlight
// inferences run, so a client cannot pile up work; one write is in flight at a time.
class InferStream : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  static constexpr size_t kMaxInFlight = 64;
  static grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Start(
      ModelSlot& slot, grpc::CallbackServerContext* context);

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  class Inference;
  InferStream(ModelSlot& slot, grpc::CallbackServerContext* context, Caller caller)
      : slot_(slot), context_(context), caller_(std::move(caller)) {}
  absl::Status Prepare(const ServiceContext& services, std::string& id, OipInference& asked,
                       Admitted& admitted);
  void Submit();
  void Send(const inference::ModelStreamInferResponse& response);
  void Ended(uint64_t ticket);
  void Pump();
  void CancelAll();

  ModelSlot& slot_;
  grpc::CallbackServerContext* const context_;
  const Caller caller_;
  std::shared_ptr<InferStream> self_;  // until OnDone

  std::mutex mutex_;
  std::map<uint64_t, std::string> running_;  // live ticket -> request id
  std::deque<grpc::ByteBuffer> outgoing_;
  bool reading_ = false, read_all_ = false, writing_ = false, broken_ = false, done_ = false;
  size_t submitting_ = 0;  // between the read and the ticket
  grpc::ByteBuffer incoming_, in_flight_;
};

}  // namespace lift::rpc
