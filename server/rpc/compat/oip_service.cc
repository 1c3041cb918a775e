#include "server/rpc/compat/oip_service.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/rpc/admit.h"
#include "server/rpc/compat/infer_stream.h"
#include "server/rpc/compat/oip_tensors.h"
#include "server/rpc/unary_answer.h"

namespace lift::rpc {
namespace {

void AddTensor(
    google::protobuf::RepeatedPtrField<inference::ModelMetadataResponse::TensorMetadata>& list,
    const char* name, const char* datatype, int64_t size) {
  auto& tensor = *list.Add();
  tensor.set_name(name);
  tensor.set_datatype(datatype);
  tensor.add_shape(size);
}

// NOT_FOUND unless it is empty or names a variant.
absl::Status CheckVersion(const ModelInfo& model, const std::string& version) {
  const auto& variants = model.variants;
  const bool known = std::any_of(variants.begin(), variants.end(),
                                 [&](const VariantInfo& v) { return v.name == version; });
  if (version.empty() || known) return absl::OkStatus();
  return WithReason(absl::NotFoundError(absl::StrCat("model '", model.name, "' has no version '",
                                                     version, "'; its versions are its variants")),
                    "NOT_FOUND", "version");
}

}  // namespace

grpc::ServerUnaryReactor* OipService::ServerLive(Context* context, const Bytes* in, Bytes* out) {
  return AnswerNow<inference::ServerLiveRequest, inference::ServerLiveResponse>(
      slot_, context, in, out, [](const auto&, const auto&, auto& response) {
        response.set_live(true);
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* OipService::ServerReady(Context* context, const Bytes* in, Bytes* out) {
  return AnswerNow<inference::ServerReadyRequest, inference::ServerReadyResponse>(
      slot_, context, in, out, [&](const ServiceContext& services, const auto&, auto& response) {
        response.set_ready(services.shared.serving && !services.engine.load().draining);
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* OipService::ModelReady(Context* context, const Bytes* in, Bytes* out) {
  return AnswerNow<inference::ModelReadyRequest, inference::ModelReadyResponse>(
      slot_, context, in, out,
      [&](const ServiceContext& services, const auto& request, auto& response) -> absl::Status {
        LIFT_RETURN_IF_ERROR(CheckModel(services, request.name()));
        LIFT_RETURN_IF_ERROR(CheckVersion(services.model, request.version()));
        const auto& variants = services.model.variants;
        const auto resident = variants.begin() + services.engine.resident_variants();
        const bool loaded = request.version().empty() ||
                            std::any_of(variants.begin(), resident, [&](const VariantInfo& v) {
                              return v.name == request.version();
                            });
        response.set_ready(loaded && services.shared.serving && !services.engine.load().draining);
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* OipService::ServerMetadata(Context* context, const Bytes* in,
                                                     Bytes* out) {
  return AnswerNow<inference::ServerMetadataRequest, inference::ServerMetadataResponse>(
      slot_, context, in, out, [&](const ServiceContext& services, const auto&, auto& response) {
        response.set_name("liftserve");
        response.set_version(services.shared.build.version);
        response.add_extensions("model_stream_infer");
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* OipService::ModelMetadata(Context* context, const Bytes* in, Bytes* out) {
  return AnswerNow<inference::ModelMetadataRequest, inference::ModelMetadataResponse>(
      slot_, context, in, out,
      [&](const ServiceContext& services, const auto& request, auto& response) -> absl::Status {
        LIFT_RETURN_IF_ERROR(CheckModel(services, request.name()));
        LIFT_RETURN_IF_ERROR(CheckVersion(services.model, request.version()));
        response.set_name(services.model.name);
        for (const VariantInfo& variant : services.model.variants) {
          response.add_versions(variant.name);
        }
        response.set_platform("liftserve");
        auto& inputs = *response.mutable_inputs();
        AddTensor(inputs, "text_input", "BYTES", 1);
        AddTensor(inputs, "token_ids", "INT32", -1);
        AddTensor(inputs, "stream", "BOOL", 1);
        AddTensor(inputs, "exclude_input_in_output", "BOOL", 1);
        AddTensor(inputs, "sampling_parameters", "BYTES", 1);
        AddTensor(*response.mutable_outputs(), "text_output", "BYTES", 1);
        AddTensor(*response.mutable_outputs(), "token_ids", "INT32", -1);
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* OipService::ModelInfer(Context* context, const Bytes* in, Bytes* out) {
  OipInference asked;
  Caller caller;
  const ServicesPtr services = slot_.current();
  const absl::Status checked = [&]() -> absl::Status {
    LIFT_ASSIGN_OR_RETURN(caller, CallerOf(slot_.shared(), *context));
    inference::ModelInferRequest request;
    LIFT_RETURN_IF_ERROR(ParseMessage(*in, request));
    LIFT_ASSIGN_OR_RETURN(asked, ToInference(*services, request));
    if (!asked.stream) return absl::OkStatus();
    return WithReason(
        absl::InvalidArgumentError("inputs.stream needs ModelStreamInfer; this call answers once"),
        "INVALID_FIELD", "inputs.stream");
  }();
  if (!checked.ok()) {
    return UnaryCall::End(context, NoteRefusal(*services, caller.tenant, checked));
  }
  auto admitted = Admit(*services, caller, asked.request);
  if (!admitted.ok()) return UnaryCall::End(context, admitted.status());
  const api::OutputOptions output = asked.request.output();
  return UnaryCall::Start(
      services, context, *std::move(admitted), output,
      [asked = std::move(asked)](Answer answer) {
        OipPiece piece;
        piece.text = asked.prompt + answer.text;
        piece.token_ids = std::move(answer.token_ids);
        piece.variant = answer.served_by.variant();
        piece.lambda = answer.served_by.lambda();
        piece.finish_reason =
            answer.finished.reason() == api::FINISH_REASON_STOP ? "stop" : "length";
        return SerializeMessage(ToResponse(asked, piece));
      },
      out);
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* OipService::ModelStreamInfer(
    Context* context) {
  return InferStream::Start(slot_, context);
}

}  // namespace lift::rpc
