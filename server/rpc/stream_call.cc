#include "server/rpc/stream_call.h"

#include "server/rpc/status_map.h"

namespace lift::rpc {
namespace {

class RefusedStream : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  explicit RefusedStream(grpc::Status status) { Finish(std::move(status)); }
  void OnDone() override { delete this; }
};

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* StreamCall::Refuse(grpc::CallbackServerContext* context,
                                                               const absl::Status& status) {
  return new RefusedStream(FinishStatus(context, status));
}

StreamCall::StreamCall(ServicesPtr services, grpc::CallbackServerContext* context,
                       const EngineRequest& request, const api::OutputOptions& output,
                       EventEncoder encode)
    : services_(std::move(services)),
      context_(context),
      request_id_(request.request_id),
      deadline_(request.deadline),
      want_ids_(output.token_ids()),
      want_logprobs_(output.logprobs()),
      encode_(encode) {}

grpc::ServerWriteReactor<grpc::ByteBuffer>* StreamCall::Start(ServicesPtr services,
                                                              grpc::CallbackServerContext* context,
                                                              Admitted admitted,
                                                              const api::OutputOptions& output,
                                                              EventEncoder encode) {
  std::shared_ptr<StreamCall> call(
      new StreamCall(services, context, admitted.request, output, encode));
  // Before Submit: the answer may be complete before Submit returns.
  call->self_ = call;
  call->ticket_ = services->shared.live.Add(services->engine, admitted.request.request_id,
                                            admitted.request.tenant);
  call->lease_ = std::move(admitted.lease);
  const auto submitted = services->engine.Submit(std::move(admitted.request), call);
  if (!submitted.ok()) {
    services->shared.live.Remove(call->ticket_);
    call->self_.reset();
    return Refuse(context, submitted.status());
  }
  return call.get();  // gRPC holds it until OnDone, which cannot come before this is returned
}

void StreamCall::OnStarted(const StartedEvent& event) {
  api::Started started;
  started.set_request_id(request_id_);
  *started.mutable_served_by() =
      ToServedBy(services_->model, services_->shared.build, event.decision, event.variant);
  started.set_prompt_tokens(event.prompt_tokens);
  started.set_cached_tokens(event.cached_tokens);
  for (const SampledToken& token : event.prompt_logprobs) {
    *started.add_prompt_logprobs() = ToLogprobs(token);
  }
  // Nothing has been written yet, so these still travel with the first message.
  for (const auto& [key, value] : ServedByMetadata(request_id_, started.served_by())) {
    context_->AddInitialMetadata(key, value);
  }
  {
    std::lock_guard lock(mutex_);
    started_ = std::move(started);
  }
  Pump();
}

void StreamCall::OnToken(const TokenEvent& event) {
  {
    std::lock_guard lock(mutex_);
    if (broken_) return;
    if (event.text.empty() && !want_ids_ && !want_logprobs_) return;
    api::Delta& delta = deltas_[event.choice];
    delta.set_index(event.choice);
    delta.mutable_text()->append(event.text);
    if (want_ids_) delta.add_token_ids(event.id);
    if (want_logprobs_) *delta.add_logprobs() = ToLogprobs(event.sampled);
  }
  Pump();
}

void StreamCall::OnFinished(const FinishedEvent& event) {
  services_->shared.live.Remove(ticket_);
  SettleLease(lease_, event.usage);
  {
    std::lock_guard lock(mutex_);
    for (size_t i = 0; i < event.choices.size(); ++i) {
      if (event.choices[i].tail_text.empty()) continue;
      api::Delta& delta = deltas_[static_cast<int>(i)];
      delta.set_index(static_cast<int>(i));
      delta.mutable_text()->append(event.choices[i].tail_text);
    }
    finished_ = ToFinished(services_->model, event);
    final_status_ = FinalStatus(event, services_->shared.live.aborting());
    if (final_status_->code() == absl::StatusCode::kUnavailable) {
      finished_->set_reason(api::FINISH_REASON_DRAINED);
    }
  }
  Pump();
}

std::optional<StreamEvent> StreamCall::TakeNext() {
  std::optional<StreamEvent> next;
  if (broken_) return next;
  if (started_) {
    next = std::move(*started_);
    started_.reset();
  } else if (!deltas_.empty()) {
    next = std::move(deltas_.begin()->second);
    deltas_.erase(deltas_.begin());
  } else if (finished_) {
    next = std::move(*finished_);
    finished_.reset();
  }
  return next;
}

// The lock is dropped before gRPC is called: writing_ and done_ already keep everybody else out.
void StreamCall::Pump() {
  for (;;) {
    std::optional<StreamEvent> event;
    std::optional<absl::Status> finish;
    {
      std::lock_guard lock(mutex_);
      if (writing_ || done_) return;
      if (broken_) encoded_.clear();
      if (encoded_.empty()) event = TakeNext();
      if (event || !encoded_.empty()) {
        writing_ = true;
      } else if (final_status_) {
        done_ = true;
        finish = final_status_;
      } else {
        return;  // nothing to say: from here on encoded_ is the next caller's
      }
    }
    if (finish) {
      services_->shared.load_reporter.AddTo(*context_, services_->engine.load());
      return Finish(FinishStatus(context_, *finish, {{"request_id", request_id_}}));
    }
    if (event) {
      for (grpc::ByteBuffer& message : encode_(*std::move(event))) {
        encoded_.push_back(std::move(message));
      }
    }
    if (!encoded_.empty()) {
      buffer_ = std::move(encoded_.front());
      encoded_.pop_front();
      return StartWrite(&buffer_);
    }
    std::lock_guard lock(mutex_);  // an event without a message
    writing_ = false;
  }
}

void StreamCall::OnWriteDone(bool ok) {
  {
    std::lock_guard lock(mutex_);
    writing_ = false;
    if (!ok) {
      broken_ = true;
      deltas_.clear();
    }
  }
  if (!ok) services_->engine.Cancel(request_id_);
  Pump();
}

void StreamCall::OnCancel() {
  // Past its deadline the engine ends the request by itself, and says so in the metrics.
  if (deadline_ && EngineClock::now() >= *deadline_) return;
  services_->engine.Cancel(request_id_);
}

void StreamCall::OnDone() { const std::shared_ptr<StreamCall> last = std::move(self_); }

}  // namespace lift::rpc
