// The Open Inference Protocol v2 on this server's engine.
#pragma once

#include "inference/grpc_predict_v2.grpc.pb.h"
#include "server/rpc/model_slot.h"

namespace lift::rpc {

using Oip = inference::GRPCInferenceService;
using RawOipService = Oip::WithRawCallbackMethod_ServerLive<Oip::WithRawCallbackMethod_ServerReady<
    Oip::WithRawCallbackMethod_ModelReady<Oip::WithRawCallbackMethod_ServerMetadata<
        Oip::WithRawCallbackMethod_ModelMetadata<Oip::WithRawCallbackMethod_ModelInfer<
            Oip::WithRawCallbackMethod_ModelStreamInfer<Oip::Service>>>>>>>;

// Thread-safe: gRPC calls it from many threads.
class OipService final : public RawOipService {
 public:
  explicit OipService(ModelSlot& slot) : slot_(slot) {}

  using Context = grpc::CallbackServerContext;
  using Bytes = grpc::ByteBuffer;
  grpc::ServerUnaryReactor* ServerLive(Context* context, const Bytes* in, Bytes* out) override;
  grpc::ServerUnaryReactor* ServerReady(Context* context, const Bytes* in, Bytes* out) override;
  grpc::ServerUnaryReactor* ModelReady(Context* context, const Bytes* in, Bytes* out) override;
  grpc::ServerUnaryReactor* ServerMetadata(Context* context, const Bytes* in, Bytes* out) override;
  grpc::ServerUnaryReactor* ModelMetadata(Context* context, const Bytes* in, Bytes* out) override;
  grpc::ServerUnaryReactor* ModelInfer(Context* context, const Bytes* in, Bytes* out) override;
  grpc::ServerBidiReactor<Bytes, Bytes>* ModelStreamInfer(Context* context) override;

 private:
  ModelSlot& slot_;
};

}  // namespace lift::rpc
