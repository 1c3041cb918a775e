#include "server/rpc/unary_call.h"

#include "server/rpc/status_map.h"

namespace lift::rpc {

grpc::ServerUnaryReactor* UnaryCall::End(grpc::CallbackServerContext* context,
                                         const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(FinishStatus(context, status));
  return reactor;
}

UnaryCall::UnaryCall(ServicesPtr services, grpc::CallbackServerContext* context,
                     const EngineRequest& request, const api::OutputOptions& output,
                     AnswerEncoder encode, grpc::ByteBuffer* response)
    : services_(std::move(services)),
      context_(context),
      deadline_(request.deadline),
      want_ids_(output.token_ids()),
      want_logprobs_(output.logprobs()),
      encode_(encode),
      response_(response),
      request_id_(request.request_id) {
  answer_.request_id = request_id_;
  if (request.choices > 1) answer_.choices.resize(static_cast<size_t>(request.choices));
}

grpc::ServerUnaryReactor* UnaryCall::Start(ServicesPtr services,
                                           grpc::CallbackServerContext* context, Admitted admitted,
                                           const api::OutputOptions& output, AnswerEncoder encode,
                                           grpc::ByteBuffer* response) {
  std::shared_ptr<UnaryCall> call(
      new UnaryCall(services, context, admitted.request, output, encode, response));
  // Before Submit: the answer may be complete before Submit returns.
  call->self_ = call;
  call->ticket_ = services->shared.live.Add(services->engine, admitted.request.request_id,
                                            admitted.request.tenant);
  call->lease_ = std::move(admitted.lease);
  const auto submitted = services->engine.Submit(std::move(admitted.request), call);
  if (!submitted.ok()) {
    services->shared.live.Remove(call->ticket_);
    call->self_.reset();
    return End(context, submitted.status());
  }
  return call.get();  // gRPC holds it until OnDone, which cannot come before this is returned
}

void UnaryCall::OnStarted(const StartedEvent& event) {
  for (const SampledToken& token : event.prompt_logprobs) {
    answer_.prompt_logprobs.push_back(ToLogprobs(token));
  }
  answer_.served_by =
      ToServedBy(services_->model, services_->shared.build, event.decision, event.variant);
  for (const auto& [key, value] : ServedByMetadata(request_id_, answer_.served_by)) {
    context_->AddInitialMetadata(key, value);
  }
}

void UnaryCall::OnToken(const TokenEvent& event) {
  if (!answer_.choices.empty()) {
    api::Choice& choice = answer_.choices[static_cast<size_t>(event.choice)];
    choice.mutable_text()->append(event.text);
    if (want_ids_) choice.add_token_ids(event.id);
    if (want_logprobs_) *choice.add_logprobs() = ToLogprobs(event.sampled);
  }
  if (event.choice > 0) return;
  answer_.text += event.text;
  if (want_ids_) answer_.token_ids.push_back(event.id);
  if (want_logprobs_) answer_.logprobs.push_back(ToLogprobs(event.sampled));
}

void UnaryCall::OnFinished(const FinishedEvent& event) {
  services_->shared.live.Remove(ticket_);
  SettleLease(lease_, event.usage);
  answer_.text += event.tail_text;
  for (size_t i = 0; i < answer_.choices.size(); ++i) {
    api::Choice& choice = answer_.choices[i];
    choice.set_index(static_cast<int>(i));
    choice.mutable_text()->append(event.choices[i].tail_text);
    *choice.mutable_end() = ToChoiceEnd(event.choices[i], static_cast<int>(i));
  }
  answer_.finished = ToFinished(services_->model, event);
  const absl::Status status = FinalStatus(event, services_->shared.live.aborting());
  if (status.ok()) *response_ = encode_(std::move(answer_));
  services_->shared.load_reporter.AddTo(*context_, services_->engine.load());
  Finish(FinishStatus(context_, status, {{"request_id", request_id_}}));
}

void UnaryCall::OnCancel() {
  // Past its deadline the engine ends the request by itself, and says so in the metrics.
  if (deadline_ && EngineClock::now() >= *deadline_) return;
  services_->engine.Cancel(request_id_);
}

void UnaryCall::OnDone() { const std::shared_ptr<UnaryCall> last = std::move(self_); }

}  // namespace lift::rpc
