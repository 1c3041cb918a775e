#include "server/rpc/generation_service.h"

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/rpc/explain.h"
#include "server/rpc/stream_call.h"
#include "server/rpc/translate.h"
#include "server/rpc/unary_answer.h"
#include "server/rpc/unary_call.h"

namespace lift::rpc {
namespace {

template <class Request>
absl::StatusOr<Prompt> PromptOf(const ServiceContext& services, const Request& request) {
  if constexpr (requires { request.messages(); }) {
    return ChatPrompt(services, request.messages());
  } else {
    switch (request.prompt_case()) {
      case Request::kText:
        return TextPrompt(services, request.text(), request.parse_special_tokens());
      case Request::kTokenIds:
        return TokenPrompt(services, request.token_ids());
      default:
        return WithReason(absl::InvalidArgumentError("prompt is missing; set text or token_ids"),
                          "INVALID_FIELD", "prompt");
    }
  }
}

template <class Response>
grpc::ByteBuffer EncodeAnswer(Answer answer) {
  Response response;
  response.set_request_id(std::move(answer.request_id));
  if constexpr (requires { response.mutable_message(); }) {
    response.mutable_message()->set_role("assistant");
    response.mutable_message()->set_content(std::move(answer.text));
  } else {
    response.set_text(std::move(answer.text));
  }
  response.mutable_token_ids()->Add(answer.token_ids.begin(), answer.token_ids.end());
  for (auto& position : answer.logprobs) response.add_logprobs()->Swap(&position);
  for (auto& position : answer.prompt_logprobs) response.add_prompt_logprobs()->Swap(&position);
  for (auto& choice : answer.choices) response.add_choices()->Swap(&choice);
  response.mutable_served_by()->Swap(&answer.served_by);
  response.mutable_finished()->Swap(&answer.finished);
  return SerializeMessage(response);
}

// Parses and translates; tells the observer of a refusal.
template <class Request>
absl::StatusOr<Admitted> Admit(const ServiceContext& services,
                               const grpc::CallbackServerContext& context,
                               const grpc::ByteBuffer& in, Request& request) {
  Caller caller;
  auto admitted = [&]() -> absl::StatusOr<Admitted> {
    LIFT_ASSIGN_OR_RETURN(caller, CallerOf(services.shared, context));
    LIFT_RETURN_IF_ERROR(ParseMessage(in, request));
    LIFT_RETURN_IF_ERROR(CheckModel(services, request.model()));
    LIFT_ASSIGN_OR_RETURN(Prompt prompt, PromptOf(services, request));
    LIFT_ASSIGN_OR_RETURN(EngineRequest translated,
                          ToEngineRequest(services, PartsOf(request), std::move(prompt), caller));
    return AdmitToQuota(services.shared, std::move(translated));
  }();
  if (!admitted.ok() && services.observer != nullptr) {
    EngineRequest refused;
    refused.tenant = caller.tenant;
    refused.traceparent = caller.traceparent;
    services.observer->OnRejected(refused, admitted.status());
  }
  return admitted;
}

}  // namespace

grpc::ServerUnaryReactor* GenerationService::Generate(Context* context, const Bytes* in,
                                                      Bytes* out) {
  api::GenerateRequest request;
  const ServicesPtr services = slot_.current();
  auto admitted = Admit(*services, *context, *in, request);
  if (!admitted.ok()) return UnaryCall::End(context, admitted.status());
  return UnaryCall::Start(services, context, *std::move(admitted), request.output(),
                          &EncodeAnswer<api::GenerateResponse>, out);
}

grpc::ServerUnaryReactor* GenerationService::Chat(Context* context, const Bytes* in, Bytes* out) {
  api::ChatRequest request;
  const ServicesPtr services = slot_.current();
  auto admitted = Admit(*services, *context, *in, request);
  if (!admitted.ok()) return UnaryCall::End(context, admitted.status());
  return UnaryCall::Start(services, context, *std::move(admitted), request.output(),
                          &EncodeAnswer<api::ChatResponse>, out);
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerationService::GenerateStream(Context* context,
                                                                              const Bytes* in) {
  api::GenerateStreamRequest request;
  const ServicesPtr services = slot_.current();
  auto admitted = Admit(*services, *context, *in, request);
  if (!admitted.ok()) return StreamCall::Refuse(context, admitted.status());
  return StreamCall::Start(services, context, *std::move(admitted), request.output(),
                           &EncodeEvent<api::GenerateStreamResponse>);
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerationService::ChatStream(Context* context,
                                                                          const Bytes* in) {
  api::ChatStreamRequest request;
  const ServicesPtr services = slot_.current();
  auto admitted = Admit(*services, *context, *in, request);
  if (!admitted.ok()) return StreamCall::Refuse(context, admitted.status());
  return StreamCall::Start(services, context, *std::move(admitted), request.output(),
                           &EncodeEvent<api::ChatStreamResponse>);
}

grpc::ServerUnaryReactor* GenerationService::Tokenize(Context* context, const Bytes* in,
                                                      Bytes* out) {
  return AnswerNow<api::TokenizeRequest, api::TokenizeResponse>(
      slot_, context, in, out,
      [&](const ServiceContext& services, const auto& request, auto& response) -> absl::Status {
        LIFT_RETURN_IF_ERROR(CheckModel(services, request.model()));
        if (request.text().size() > services.shared.limits.prompt_bytes) {
          return WithReason(absl::InvalidArgumentError(
                                absl::StrCat("text has ", request.text().size(), " bytes; at most ",
                                             services.shared.limits.prompt_bytes, " are accepted")),
                            "INVALID_FIELD", "text");
        }
        LIFT_ASSIGN_OR_RETURN(
            const std::vector<int32_t> ids,
            services.tokenizer->Encode(request.text(),
                                       {.add_special = request.add_special_tokens(),
                                        .parse_special = request.parse_special_tokens()}));
        response.mutable_token_ids()->Add(ids.begin(), ids.end());
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* GenerationService::Detokenize(Context* context, const Bytes* in,
                                                        Bytes* out) {
  return AnswerNow<api::DetokenizeRequest, api::DetokenizeResponse>(
      slot_, context, in, out,
      [&](const ServiceContext& services, const auto& request, auto& response) -> absl::Status {
        LIFT_RETURN_IF_ERROR(CheckModel(services, request.model()));
        const std::vector<int32_t> ids(request.token_ids().begin(), request.token_ids().end());
        auto text = services.tokenizer->Decode(ids, request.skip_special_tokens());
        if (!text.ok()) return WithReason(text.status(), "INVALID_FIELD", "token_ids");
        response.set_text(*std::move(text));
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* GenerationService::ExplainRoute(Context* context, const Bytes* in,
                                                          Bytes* out) {
  return AnswerNow<api::ExplainRouteRequest, api::ExplainRouteResponse>(
      slot_, context, in, out,
      [&](const ServiceContext& services, const auto& request, auto& response) {
        return Explain(services, request, response);
      });
}

grpc::ServerUnaryReactor* GenerationService::CancelGeneration(Context* context, const Bytes* in,
                                                              Bytes* out) {
  return AnswerNow<api::CancelGenerationRequest, api::CancelGenerationResponse>(
      slot_, context, in, out,
      [&](const ServiceContext& services, const auto& request, auto& response,
          const Caller& caller) -> absl::Status {
        if (request.request_id().empty()) {
          return WithReason(absl::InvalidArgumentError("request_id is empty; name a live request"),
                            "INVALID_FIELD", "request_id");
        }
        const std::string* whose = caller.role == Role::kAdmin ? nullptr : &caller.tenant;
        response.set_cancelled(services.shared.live.Cancel(request.request_id(), whose));
        return absl::OkStatus();
      });
}

}  // namespace lift::rpc
