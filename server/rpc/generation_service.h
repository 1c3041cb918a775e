// GenerationService: parses, checks and hands over; the calls themselves are in stream_call.h and
// unary_call.h.
#pragma once

#include "liftserve/v1/generation.grpc.pb.h"
#include "server/rpc/model_slot.h"

namespace lift::rpc {

// The generated base with every method taking raw bytes (see wire.h).
using RawGenerationService = liftserve::v1::GenerationService::WithRawCallbackMethod_Generate<
    liftserve::v1::GenerationService::WithRawCallbackMethod_GenerateStream<
        liftserve::v1::GenerationService::WithRawCallbackMethod_Chat<
            liftserve::v1::GenerationService::WithRawCallbackMethod_ChatStream<
                liftserve::v1::GenerationService::WithRawCallbackMethod_Tokenize<
                    liftserve::v1::GenerationService::WithRawCallbackMethod_Detokenize<
                        liftserve::v1::GenerationService::WithRawCallbackMethod_ExplainRoute<
                            liftserve::v1::GenerationService::
                                WithRawCallbackMethod_CancelGeneration<
                                    liftserve::v1::GenerationService::Service>>>>>>>>;

// Thread-safe: gRPC calls it from many threads.
class GenerationService final : public RawGenerationService {
 public:
  explicit GenerationService(ModelSlot& slot) : slot_(slot) {}

  using Context = grpc::CallbackServerContext;
  using Bytes = grpc::ByteBuffer;
  grpc::ServerUnaryReactor* Generate(Context* context, const Bytes* in, Bytes* out) override;
  grpc::ServerWriteReactor<Bytes>* GenerateStream(Context* context, const Bytes* in) override;
  grpc::ServerUnaryReactor* Chat(Context* context, const Bytes* in, Bytes* out) override;
  grpc::ServerWriteReactor<Bytes>* ChatStream(Context* context, const Bytes* in) override;
  grpc::ServerUnaryReactor* Tokenize(Context* context, const Bytes* in, Bytes* out) override;
  grpc::ServerUnaryReactor* Detokenize(Context* context, const Bytes* in, Bytes* out) override;
  grpc::ServerUnaryReactor* ExplainRoute(Context* context, const Bytes* in, Bytes* out) override;
  grpc::ServerUnaryReactor* CancelGeneration(Context* context, const Bytes* in,
                                             Bytes* out) override;

 private:
  ModelSlot& slot_;
};

}  // namespace lift::rpc
