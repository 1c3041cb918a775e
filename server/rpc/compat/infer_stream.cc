#include "server/rpc/compat/infer_stream.h"

#include "absl/strings/str_cat.h"
#include "server/rpc/admit.h"
#include "server/rpc/events.h"
#include "server/rpc/status_map.h"
#include "server/rpc/wire.h"

namespace lift::rpc {
namespace {

class RefusedStream : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  explicit RefusedStream(grpc::Status status) { Finish(std::move(status)); }
  void OnDone() override { delete this; }
};

inference::ModelStreamInferResponse ErrorResponse(const std::string& id,
                                                  const absl::Status& status) {
  inference::ModelStreamInferResponse response;
  response.set_error_message(
      absl::StrCat(absl::StatusCodeToString(status.code()), ": ", status.message()));
  response.mutable_infer_response()->set_id(id);
  return response;
}

}  // namespace

// One of them: in pieces if asked for, else one response at the end.
class InferStream::Inference : public RequestListener {
 public:
  Inference(std::shared_ptr<InferStream> stream, ServicesPtr services, OipInference asked,
            TenantQuotas::Lease lease)
      : stream_(std::move(stream)),
        services_(std::move(services)),
        asked_(std::move(asked)),
        lease_(std::move(lease)) {
    piece_.text = asked_.prompt;
  }
  void set_ticket(uint64_t ticket) { ticket_ = ticket; }

  void OnStarted(const StartedEvent& event) override {
    const auto served =
        ToServedBy(services_->model, services_->shared.build, event.decision, event.variant);
    piece_.variant = served.variant();
    piece_.lambda = served.lambda();
  }
  void OnToken(const TokenEvent& event) override {
    piece_.text += event.text;
    if (asked_.want_ids) piece_.token_ids.push_back(event.id);
    if (!asked_.stream || (event.text.empty() && !asked_.want_ids)) return;
    piece_.final = false;
    SendPiece();
  }
  void OnFinished(const FinishedEvent& event) override {
    SharedServices& shared = services_->shared;
    shared.live.Remove(ticket_);
    SettleLease(lease_, event.usage);
    const absl::Status status = FinalStatus(event, shared.live.aborting());
    if (status.ok()) {
      piece_.text += event.tail_text;
      piece_.finish_reason = event.reason == FinishReason::kStop ? "stop" : "length";
      piece_.final = true;
      SendPiece();
    } else {
      stream_->Send(ErrorResponse(asked_.id, status));
    }
    stream_->Ended(ticket_);
  }

 private:
  void SendPiece() {
    inference::ModelStreamInferResponse response;
    *response.mutable_infer_response() = ToResponse(asked_, piece_);
    piece_.text.clear();
    piece_.token_ids.clear();
    stream_->Send(response);
  }

  const std::shared_ptr<InferStream> stream_;
  const ServicesPtr services_;
  const OipInference asked_;
  TenantQuotas::Lease lease_;
  OipPiece piece_;
  uint64_t ticket_ = 0;
};

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* InferStream::Start(
    ModelSlot& slot, grpc::CallbackServerContext* context) {
  auto caller = CallerOf(slot.shared(), *context);
  if (!caller.ok()) {
    return new RefusedStream(
        FinishStatus(context, NoteRefusal(*slot.current(), "default", caller.status())));
  }
  std::shared_ptr<InferStream> stream(new InferStream(slot, context, *std::move(caller)));
  stream->self_ = stream;
  stream->reading_ = true;
  stream->StartRead(&stream->incoming_);
  return stream.get();
}

void InferStream::OnReadDone(bool ok) {
  {
    std::lock_guard lock(mutex_);
    reading_ = false;
    read_all_ = read_all_ || !ok;
    if (ok) ++submitting_;
  }
  if (ok) Submit();
  Pump();
}

// Parsed, checked and admitted; `id` is the request's own, also when it is refused.
absl::Status InferStream::Prepare(const ServiceContext& services, std::string& id,
                                  OipInference& asked, Admitted& admitted) {
  inference::ModelInferRequest request;
  LIFT_RETURN_IF_ERROR(ParseMessage(incoming_, request));
  id = request.id();
  auto translated = ToInference(services, request);
  if (!translated.ok()) return NoteRefusal(services, caller_.tenant, translated.status());
  asked = *std::move(translated);
  LIFT_ASSIGN_OR_RETURN(admitted, Admit(services, caller_, asked.request));
  return absl::OkStatus();
}

// On a gRPC thread; the answer may be complete before this returns.
void InferStream::Submit() {
  const ServicesPtr services = slot_.current();
  std::string client_id;
  OipInference asked;
  Admitted admitted;
  absl::Status status = Prepare(*services, client_id, asked, admitted);
  if (status.ok()) {
    const std::string id = admitted.request.request_id;
    auto inference =
        std::make_shared<Inference>(self_, services, std::move(asked), std::move(admitted.lease));
    const uint64_t ticket = slot_.shared().live.Add(services->engine, id, caller_.tenant);
    inference->set_ticket(ticket);
    bool broken = false;
    {
      std::lock_guard lock(mutex_);
      running_.emplace(ticket, id);
      broken = broken_;
    }
    status = services->engine.Submit(std::move(admitted.request), inference).status();
    if (status.ok() && broken) services->engine.Cancel(id);
    if (!status.ok()) {
      slot_.shared().live.Remove(ticket);
      std::lock_guard lock(mutex_);
      running_.erase(ticket);
    }
  }
  if (!status.ok()) Send(ErrorResponse(client_id, status));
  std::lock_guard lock(mutex_);
  --submitting_;
}

void InferStream::Send(const inference::ModelStreamInferResponse& response) {
  {
    std::lock_guard lock(mutex_);
    if (broken_) return;
    outgoing_.push_back(SerializeMessage(response));
  }
  Pump();
}

void InferStream::Ended(uint64_t ticket) {
  {
    std::lock_guard lock(mutex_);
    running_.erase(ticket);
  }
  Pump();
}

// The lock is dropped before gRPC is called: reading_, writing_ and done_ keep everybody else out.
void InferStream::Pump() {
  bool read = false, write = false, finish = false;
  {
    std::lock_guard lock(mutex_);
    if (done_) return;
    if (!writing_ && !outgoing_.empty()) {
      in_flight_ = std::move(outgoing_.front());
      outgoing_.pop_front();
      writing_ = write = true;
    }
    const bool idle = running_.empty() && submitting_ == 0;
    if (!reading_ && !read_all_ && submitting_ == 0 && running_.size() < kMaxInFlight) {
      reading_ = read = true;
    }
    finish = (read_all_ || broken_) && !reading_ && idle && !writing_ && outgoing_.empty();
    done_ = finish;
  }
  if (write) StartWrite(&in_flight_);
  if (read) StartRead(&incoming_);
  if (finish) {
    slot_.shared().load_reporter.AddTo(*context_, slot_.current()->engine.load());
    Finish(grpc::Status::OK);
  }
}

void InferStream::OnWriteDone(bool ok) {
  {
    std::lock_guard lock(mutex_);
    writing_ = false;
  }
  if (!ok) CancelAll();
  Pump();
}

void InferStream::CancelAll() {
  std::map<uint64_t, std::string> running;
  {
    std::lock_guard lock(mutex_);
    broken_ = true;
    outgoing_.clear();
    running = running_;
  }
  for (const auto& [ticket, id] : running) slot_.shared().live.Cancel(id, &caller_.tenant);
}

void InferStream::OnCancel() { CancelAll(); }

void InferStream::OnDone() { const std::shared_ptr<InferStream> last = std::move(self_); }

}  // namespace lift::rpc
