#include "server/rpc/compat/vllm_service.h"

#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/rpc/admit.h"
#include "server/rpc/stream_call.h"
#include "server/rpc/unary_answer.h"

namespace lift::rpc {
namespace {

namespace wire = vllm::grpc::engine;

absl::Status Unsupported(const char* field) {
  return WithReason(
      absl::InvalidArgumentError(absl::StrCat("sampling_params.", field,
                                              " is not supported by this server; leave it out")),
      "INVALID_FIELD", absl::StrCat("sampling_params.", field));
}

absl::Status CheckSupported(const wire::SamplingParams& p) {
  // Its answer has no field for them.
  if (p.has_prompt_logprobs()) return Unsupported("prompt_logprobs");
  if (p.has_truncate_prompt_tokens()) return Unsupported("truncate_prompt_tokens");
  if (p.include_stop_str_in_output()) return Unsupported("include_stop_str_in_output");
  if (p.has_structural_tag()) return Unsupported("structural_tag");
  return absl::OkStatus();
}

void FillConstraint(const wire::SamplingParams& p, api::GenerateRequest& out) {
  switch (p.constraint_case()) {
    case wire::SamplingParams::kJsonSchema:
      return out.mutable_constraint()->set_json_schema(p.json_schema());
    case wire::SamplingParams::kRegex:
      return out.mutable_constraint()->set_regex(p.regex());
    case wire::SamplingParams::kGrammar:
      return out.mutable_constraint()->set_grammar(p.grammar());
    case wire::SamplingParams::kJsonObject:
      return out.mutable_constraint()->set_json_object(p.json_object());
    case wire::SamplingParams::kChoice:
      *out.mutable_constraint()->mutable_choices()->mutable_texts() = p.choice().choices();
      return;
    case wire::SamplingParams::kStructuralTag:
    case wire::SamplingParams::CONSTRAINT_NOT_SET:
      return;
  }
}

// proto3 zeros of fields that are not optional mean "not given" there.
void FillSampling(const wire::SamplingParams& p, api::GenerateRequest& out) {
  auto& sampling = *out.mutable_sampling();
  sampling.set_temperature(p.has_temperature() ? static_cast<double>(p.temperature()) : 1.0);
  if (p.top_p() != 0) sampling.set_top_p(p.top_p());
  if (p.top_k() != 0) sampling.set_top_k(p.top_k());
  if (p.min_p() != 0) sampling.set_min_p(p.min_p());
  if (p.frequency_penalty() != 0) sampling.set_frequency_penalty(p.frequency_penalty());
  if (p.presence_penalty() != 0) sampling.set_presence_penalty(p.presence_penalty());
  if (p.repetition_penalty() != 0) sampling.set_repetition_penalty(p.repetition_penalty());
  if (p.has_seed()) sampling.set_seed(static_cast<uint32_t>(p.seed()));
  sampling.mutable_logit_bias()->insert(p.logit_bias().begin(), p.logit_bias().end());
  sampling.set_n(static_cast<int32_t>(std::min<uint32_t>(p.n(), INT32_MAX)));
  auto& stopping = *out.mutable_stopping();
  if (p.has_max_tokens()) stopping.set_max_new_tokens(p.max_tokens());
  stopping.set_min_new_tokens(p.min_tokens());
  stopping.set_ignore_eos(p.ignore_eos());
  *stopping.mutable_stop_strings() = p.stop();
  for (const uint32_t id : p.stop_token_ids()) {
    stopping.add_stop_token_ids(static_cast<int32_t>(id));
  }
  if (p.has_logprobs()) {
    out.mutable_output()->set_logprobs(true);
    out.mutable_output()->set_top_logprobs(p.logprobs());
  }
  out.mutable_output()->set_token_ids(true);
}

const char* ReasonText(api::FinishReason reason) {
  if (reason == api::FINISH_REASON_STOP) return "stop";
  return reason == api::FINISH_REASON_LENGTH ? "length" : "abort";
}

// What earlier events of a stream leave for later ones.
struct Progress {
  struct Choice {
    std::vector<uint32_t> ids;
    wire::OutputLogProbs logprobs;
  };
  bool stream = false, want_logprobs = false;
  uint32_t prompt_tokens = 0, cached_tokens = 0;
  std::vector<Choice> choices;
};

void AppendLogprobs(const api::Delta& delta, wire::OutputLogProbs& out) {
  for (const auto& position : delta.logprobs()) {
    out.add_token_logprobs(static_cast<float>(position.chosen().logprob()));
    out.add_token_ids(static_cast<uint32_t>(position.chosen().token_id()));
    auto& top = *out.add_top_logprobs();
    for (const auto& best : position.top()) {
      top.add_values(static_cast<float>(best.logprob()));
      top.add_token_ids(static_cast<uint32_t>(best.token_id()));
    }
  }
}

std::vector<grpc::ByteBuffer> EncodeDelta(const api::Delta& delta, Progress& progress) {
  Progress::Choice& choice = progress.choices[static_cast<size_t>(delta.index())];
  for (const int32_t id : delta.token_ids()) choice.ids.push_back(static_cast<uint32_t>(id));
  if (progress.want_logprobs) AppendLogprobs(delta, choice.logprobs);
  if (!progress.stream || delta.token_ids().empty()) return {};
  wire::GenerateResponse response;
  auto& chunk = *response.mutable_chunk();
  for (const int32_t id : delta.token_ids()) chunk.add_token_ids(static_cast<uint32_t>(id));
  chunk.set_prompt_tokens(progress.prompt_tokens);
  chunk.set_completion_tokens(static_cast<uint32_t>(choice.ids.size()));
  chunk.set_cached_tokens(progress.cached_tokens);
  chunk.set_index(static_cast<uint32_t>(delta.index()));
  if (progress.want_logprobs) AppendLogprobs(delta, *chunk.mutable_output_logprobs());
  return {SerializeMessage(response)};
}

// One for each answer.
std::vector<grpc::ByteBuffer> EncodeFinished(const api::Finished& finished, Progress& progress) {
  std::vector<grpc::ByteBuffer> messages;
  for (size_t i = 0; i < progress.choices.size(); ++i) {
    Progress::Choice& choice = progress.choices[i];
    wire::GenerateResponse response;
    auto& complete = *response.mutable_complete();
    complete.mutable_output_ids()->Add(choice.ids.begin(), choice.ids.end());
    const bool several = finished.choices_size() > 0;
    complete.set_finish_reason(
        ReasonText(several ? finished.choices(static_cast<int>(i)).reason() : finished.reason()));
    complete.set_prompt_tokens(static_cast<uint32_t>(finished.usage().prompt_tokens()));
    complete.set_completion_tokens(static_cast<uint32_t>(choice.ids.size()));
    complete.set_cached_tokens(static_cast<uint32_t>(finished.usage().cached_tokens()));
    complete.set_index(static_cast<uint32_t>(i));
    if (progress.want_logprobs) complete.mutable_output_logprobs()->Swap(&choice.logprobs);
    messages.push_back(SerializeMessage(response));
  }
  return messages;
}

EventEncoder MakeEncoder(const wire::GenerateRequest& request) {
  auto progress = std::make_shared<Progress>();
  progress->stream = request.stream();
  progress->want_logprobs = request.sampling_params().has_logprobs();
  progress->choices.resize(std::max<size_t>(request.sampling_params().n(), 1));
  return [progress](StreamEvent event) -> std::vector<grpc::ByteBuffer> {
    if (const auto* started = std::get_if<api::Started>(&event)) {
      progress->prompt_tokens = static_cast<uint32_t>(started->prompt_tokens());
      progress->cached_tokens = static_cast<uint32_t>(started->cached_tokens());
      return {};
    }
    if (const auto* delta = std::get_if<api::Delta>(&event)) return EncodeDelta(*delta, *progress);
    return EncodeFinished(std::get<api::Finished>(event), *progress);
  };
}

}  // namespace

absl::StatusOr<api::GenerateRequest> FromVllm(const ServiceContext& services,
                                              const wire::GenerateRequest& request) {
  LIFT_RETURN_IF_ERROR(CheckSupported(request.sampling_params()));
  api::GenerateRequest out;
  out.set_request_id(request.request_id());
  FillSampling(request.sampling_params(), out);
  FillConstraint(request.sampling_params(), out);
  if (request.input_case() == wire::GenerateRequest::kText) out.set_text(request.text());
  if (request.has_tokenized()) {
    auto& ids = *out.mutable_token_ids()->mutable_ids();
    for (const uint32_t id : request.tokenized().input_ids()) {
      ids.Add(id > INT32_MAX ? -1 : static_cast<int32_t>(id));
    }
  }
  if (!request.sampling_params().has_max_tokens()) {
    // What the context leaves; a prompt that is wrong is refused later, with its own sentence.
    int64_t prompt = out.token_ids().ids_size();
    if (!out.text().empty() && out.text().size() <= services.shared.limits.prompt_bytes) {
      const auto ids = services.tokenizer->Encode(out.text(), {.add_special = true});
      if (ids.ok()) prompt = static_cast<int64_t>(ids->size());
    }
    int64_t room = std::max<int64_t>(services.model.max_context - prompt, 1);
    if (services.shared.limits.max_answer_tokens > 0) {
      room = std::min(room, services.shared.limits.max_answer_tokens);
    }
    out.mutable_stopping()->set_max_new_tokens(room);
  }
  return out;
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* VllmService::Generate(Context* context,
                                                                  const Bytes* in) {
  wire::GenerateRequest request;
  api::GenerateRequest translated;
  Caller caller;
  const ServicesPtr services = slot_.current();
  const absl::Status checked = [&]() -> absl::Status {
    LIFT_ASSIGN_OR_RETURN(caller, CallerOf(slot_.shared(), *context));
    LIFT_RETURN_IF_ERROR(ParseMessage(*in, request));
    LIFT_ASSIGN_OR_RETURN(translated, FromVllm(*services, request));
    return absl::OkStatus();
  }();
  if (!checked.ok()) {
    return StreamCall::Refuse(context, NoteRefusal(*services, caller.tenant, checked));
  }
  auto admitted = Admit(*services, caller, translated);
  if (!admitted.ok()) return StreamCall::Refuse(context, admitted.status());
  return StreamCall::Start(services, context, *std::move(admitted), translated.output(),
                           MakeEncoder(request));
}

grpc::ServerUnaryReactor* VllmService::HealthCheck(Context* context, const Bytes* in, Bytes* out) {
  return AnswerNow<wire::HealthCheckRequest, wire::HealthCheckResponse>(
      slot_, context, in, out, [&](const ServiceContext& services, const auto&, auto& response) {
        const bool draining = services.engine.load().draining;
        response.set_healthy(services.shared.serving && !draining);
        response.set_message(draining                  ? "draining"
                             : services.shared.serving ? "ready"
                                                       : "not ready");
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* VllmService::Abort(Context* context, const Bytes* in, Bytes* out) {
  return AnswerNow<wire::AbortRequest, wire::AbortResponse>(
      slot_, context, in, out,
      [&](const ServiceContext& services, const auto& request, auto&, const Caller& caller) {
        for (const std::string& id : request.request_ids()) {
          services.shared.live.Cancel(id, caller.role == Role::kAdmin ? nullptr : &caller.tenant);
        }
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* VllmService::GetModelInfo(Context* context, const Bytes* in, Bytes* out) {
  return AnswerNow<wire::GetModelInfoRequest, wire::GetModelInfoResponse>(
      slot_, context, in, out, [&](const ServiceContext& services, const auto&, auto& response) {
        response.set_model_path(services.model.name);
        response.set_is_generation(true);
        response.set_max_context_length(static_cast<uint32_t>(services.model.max_context));
        response.set_vocab_size(static_cast<uint32_t>(services.model.vocab_size));
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* VllmService::GetServerInfo(Context* context, const Bytes* in,
                                                     Bytes* out) {
  return AnswerNow<wire::GetServerInfoRequest, wire::GetServerInfoResponse>(
      slot_, context, in, out, [&](const ServiceContext& services, const auto&, auto& response) {
        const EngineLoad load = services.engine.load();
        response.set_active_requests(static_cast<uint32_t>(load.running + load.waiting));
        response.set_is_paused(load.draining);
        response.set_uptime_seconds(std::chrono::duration<double>(std::chrono::system_clock::now() -
                                                                  services.shared.build.start_time)
                                        .count());
        response.set_server_type("liftserve");
        return absl::OkStatus();
      });
}

}  // namespace lift::rpc
