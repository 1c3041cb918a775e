// ModelService: what is loaded, and what shall be.
#pragma once

#include "liftserve/v1/model.grpc.pb.h"
#include "server/rpc/model_slot.h"

namespace lift::rpc {

using RawModelService = liftserve::v1::ModelService::WithRawCallbackMethod_ListModels<
    liftserve::v1::ModelService::WithRawCallbackMethod_GetModel<
        liftserve::v1::ModelService::WithRawCallbackMethod_GetServerInfo<
            liftserve::v1::ModelService::WithRawCallbackMethod_GetLoad<
                liftserve::v1::ModelService::WithRawCallbackMethod_LoadVariant<
                    liftserve::v1::ModelService::WithRawCallbackMethod_UnloadVariant<
                        liftserve::v1::ModelService::WithRawCallbackMethod_SetMemoryBudget<
                            liftserve::v1::ModelService::WithRawCallbackMethod_SwapModel<
                                liftserve::v1::ModelService::Service>>>>>>>>;

class ModelService final : public RawModelService {
 public:
  explicit ModelService(ModelSlot& slot) : slot_(slot) {}
  using Context = grpc::CallbackServerContext;
  using Bytes = grpc::ByteBuffer;
  grpc::ServerUnaryReactor* SwapModel(Context* context, const Bytes* in, Bytes* out) override;
  grpc::ServerUnaryReactor* ListModels(Context* context, const Bytes* in, Bytes* out) override;
  grpc::ServerUnaryReactor* GetModel(Context* context, const Bytes* in, Bytes* out) override;
  grpc::ServerUnaryReactor* GetServerInfo(Context* context, const Bytes* in, Bytes* out) override;
  grpc::ServerUnaryReactor* GetLoad(Context* context, const Bytes* in, Bytes* out) override;
  grpc::ServerUnaryReactor* LoadVariant(Context* context, const Bytes* in, Bytes* out) override;
  grpc::ServerUnaryReactor* UnloadVariant(Context* context, const Bytes* in, Bytes* out) override;
  grpc::ServerUnaryReactor* SetMemoryBudget(Context* context, const Bytes* in, Bytes* out) override;

 private:
  ModelSlot& slot_;
};

}  // namespace lift::rpc
