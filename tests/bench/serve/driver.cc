#include "tests/bench/serve/driver.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"
#include "liftserve/v1/generation.grpc.pb.h"

namespace lift::bench {
namespace {

namespace api = liftserve::v1;
using Clock = std::chrono::steady_clock;

double SecondsBetween(Clock::time_point a, Clock::time_point b) {
  return std::chrono::duration<double>(b - a).count();
}

// Counts what is under way and collects outcomes.
class Collector {
 public:
  void Begin() {
    std::lock_guard lock(mutex_);
    ++running_;
  }
  void End(Outcome outcome) {
    std::lock_guard lock(mutex_);
    outcomes_.push_back(std::move(outcome));
    --running_;
    changed_.notify_all();
  }
  // Waits until fewer than `limit` run.
  void WaitBelow(int64_t limit) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return running_ < limit; });
  }
  std::vector<Outcome> Take() { return std::move(outcomes_); }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t running_ = 0;
  std::vector<Outcome> outcomes_;
};

std::string CodeName(grpc::StatusCode code) {
  return absl::StatusCodeToString(static_cast<absl::StatusCode>(code));
}

// One stream; deletes itself when it is done.
class Stream : public grpc::ClientReadReactor<api::GenerateStreamResponse> {
 public:
  Stream(const ServeFlags& flags, const PlannedRequest& planned, const std::string& api_key,
         api::GenerationService::Stub& stub, Collector& collector)
      : collector_(collector), cancel_after_(planned.cancel_after), started_(Clock::now()) {
    outcome_.tenant = planned.tenant;
    outcome_.prompt_tokens = static_cast<int64_t>(planned.prompt.size());
    outcome_.asked_tokens = planned.output_tokens;
    if (!api_key.empty()) context_.AddMetadata("authorization", absl::StrCat("Bearer ", api_key));
    if (!planned.tenant.empty()) context_.AddMetadata("x-liftserve-tenant", planned.tenant);
    if (flags.deadline_seconds > 0) {
      context_.set_deadline(
          std::chrono::system_clock::now() +
          std::chrono::microseconds(static_cast<int64_t>(flags.deadline_seconds * 1e6)));
    }
    request_.mutable_token_ids()->mutable_ids()->Add(planned.prompt.begin(), planned.prompt.end());
    request_.mutable_stopping()->set_max_new_tokens(planned.output_tokens);
    request_.mutable_stopping()->set_ignore_eos(true);
    request_.mutable_output()->set_token_ids(true);
    if (!flags.variant.empty()) {
      request_.mutable_precision()->set_mode(api::PRECISION_MODE_PINNED);
      request_.mutable_precision()->set_variant(flags.variant);
    }
    stub.async()->GenerateStream(&context_, &request_, this);
    StartRead(&response_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (const int tokens = response_.delta().token_ids_size(); tokens > 0) {
      const auto now = Clock::now();
      if (outcome_.tokens == 0) {
        outcome_.ttft = SecondsBetween(started_, now);
      } else {
        outcome_.gaps.push_back(SecondsBetween(last_, now) / tokens);
      }
      last_ = now;
      outcome_.tokens += tokens;
    }
    if (cancel_after_ >= 0 && outcome_.tokens >= cancel_after_ && !outcome_.cancelled) {
      outcome_.cancelled = true;
      context_.TryCancel();
    }
    StartRead(&response_);
  }

  void OnDone(const grpc::Status& status) override {
    outcome_.total = SecondsBetween(started_, Clock::now());
    const bool own = outcome_.cancelled && status.error_code() == grpc::StatusCode::CANCELLED;
    if (!status.ok() && !own) outcome_.error = CodeName(status.error_code());
    collector_.End(std::move(outcome_));
    delete this;
  }

 private:
  Collector& collector_;
  const int64_t cancel_after_;
  const Clock::time_point started_;
  Clock::time_point last_;
  grpc::ClientContext context_;
  api::GenerateStreamRequest request_;
  api::GenerateStreamResponse response_;
  Outcome outcome_;
};

}  // namespace

DriveResult Drive(const ServeFlags& flags, Workload workload,
                  const std::vector<std::shared_ptr<grpc::Channel>>& channels,
                  const std::string& api_key) {
  std::vector<std::unique_ptr<api::GenerationService::Stub>> stubs;
  for (const auto& channel : channels) stubs.push_back(api::GenerationService::NewStub(channel));
  Collector collector;
  const auto begin = Clock::now();
  for (int64_t sent = 0; flags.requests == 0 || sent < flags.requests; ++sent) {
    const PlannedRequest planned = workload.Next();
    if (flags.rate > 0) {
      if (planned.start_seconds > flags.seconds) break;
      std::this_thread::sleep_until(
          begin + std::chrono::microseconds(static_cast<int64_t>(planned.start_seconds * 1e6)));
    } else {
      collector.WaitBelow(flags.clients);
      if (SecondsBetween(begin, Clock::now()) > flags.seconds) break;
    }
    collector.Begin();
    new Stream(flags, planned, api_key, *stubs[static_cast<size_t>(sent) % stubs.size()],
               collector);
  }
  collector.WaitBelow(1);
  return {collector.Take(), SecondsBetween(begin, Clock::now())};
}

}  // namespace lift::bench
