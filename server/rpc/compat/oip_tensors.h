// Open Inference Protocol tensors <-> a GenerateRequest and its answer.
#pragma once

#include "inference/grpc_predict_v2.pb.h"
#include "liftserve/v1/generation.pb.h"
#include "server/rpc/service_context.h"
#include "server/rpc/unary_call.h"

namespace lift::rpc {

// One inference as asked for.
struct OipInference {
  liftserve::v1::GenerateRequest request;
  std::string model_name, model_version, id;
  std::string prompt;         // to repeat, unless it is to be left out
  bool raw = false;           // answer with raw_output_contents, as the inputs came
  bool stream = false;        // ModelStreamInfer: in pieces
  bool final_marker = false;  // an empty last response is wanted
  bool want_text = true, want_ids = false;
};

// INVALID_ARGUMENT naming the tensor, parameter or key; NOT_FOUND for model and version.
absl::StatusOr<OipInference> ToInference(const ServiceContext& services,
                                         const inference::ModelInferRequest& request);

// What one response holds.
struct OipPiece {
  std::string text;
  std::vector<int32_t> token_ids;
  std::string variant, finish_reason;  // empty = not known yet
  double lambda = 0;
  bool final = true;
};
inference::ModelInferResponse ToResponse(const OipInference& inference, const OipPiece& piece);

}  // namespace lift::rpc
