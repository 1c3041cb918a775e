// vLLM's engine protocol on this server's engine.
#pragma once

#include "liftserve/v1/generation.pb.h"
#include "server/rpc/model_slot.h"
#include "vllm/grpc/vllm_engine.grpc.pb.h"

namespace lift::rpc {

// Sampling defaults as vLLM has them. INVALID_ARGUMENT naming what is not supported.
absl::StatusOr<liftserve::v1::GenerateRequest> FromVllm(
    const ServiceContext& services, const vllm::grpc::engine::GenerateRequest& request);

using vllm::grpc::engine::VllmEngine;
using RawVllmService =
    VllmEngine::WithRawCallbackMethod_Generate<VllmEngine::WithRawCallbackMethod_HealthCheck<
        VllmEngine::WithRawCallbackMethod_Abort<VllmEngine::WithRawCallbackMethod_GetModelInfo<
            VllmEngine::WithRawCallbackMethod_GetServerInfo<VllmEngine::Service>>>>>;

// Thread-safe: gRPC calls it from many threads.
class VllmService final : public RawVllmService {
 public:
  explicit VllmService(ModelSlot& slot) : slot_(slot) {}

  using Context = grpc::CallbackServerContext;
  using Bytes = grpc::ByteBuffer;
  grpc::ServerWriteReactor<Bytes>* Generate(Context* context, const Bytes* in) override;
  grpc::ServerUnaryReactor* HealthCheck(Context* context, const Bytes* in, Bytes* out) override;
  grpc::ServerUnaryReactor* Abort(Context* context, const Bytes* in, Bytes* out) override;
  grpc::ServerUnaryReactor* GetModelInfo(Context* context, const Bytes* in, Bytes* out) override;
  grpc::ServerUnaryReactor* GetServerInfo(Context* context, const Bytes* in, Bytes* out) override;

 private:
  ModelSlot& slot_;
};

}  // namespace lift::rpc
