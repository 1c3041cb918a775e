// UsageService: what was used, from the ledger if there is one.
#pragma once

#include "liftserve/v1/usage.grpc.pb.h"
#include "server/rpc/model_slot.h"
#include "server/rpc/worker.h"

namespace lift::rpc {

using RawUsageService = liftserve::v1::UsageService::WithRawCallbackMethod_GetUsage<
    liftserve::v1::UsageService::WithRawCallbackMethod_ListUsageRecords<
        liftserve::v1::UsageService::WithRawCallbackMethod_ListRoutingDecisions<
            liftserve::v1::UsageService::Service>>>;

class UsageService final : public RawUsageService {
 public:
  explicit UsageService(ModelSlot& slot) : slot_(slot) {}
  using Context = grpc::CallbackServerContext;
  using Bytes = grpc::ByteBuffer;
  grpc::ServerUnaryReactor* GetUsage(Context* context, const Bytes* in, Bytes* out) override;
  grpc::ServerUnaryReactor* ListUsageRecords(Context* context, const Bytes* in,
                                             Bytes* out) override;
  grpc::ServerUnaryReactor* ListRoutingDecisions(Context* context, const Bytes* in,
                                                 Bytes* out) override;

 private:
  ModelSlot& slot_;
  Worker reader_;  // of the ledger
};

}  // namespace lift::rpc
