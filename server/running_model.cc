#include "server/running_model.h"

#include <cstdio>
#include <cstdlib>
#include <future>
#include <utility>

#include "server/billing/meter.h"

namespace lift {
namespace {

// Resolves when a request has run to its end.
class FinishedPromise : public RequestListener {
 public:
  void OnStarted(const StartedEvent&) override {}
  void OnToken(const TokenEvent&) override {}
  void OnFinished(const FinishedEvent& event) override { promise_.set_value(event.status); }
  absl::Status Wait() { return promise_.get_future().get(); }

 private:
  std::promise<absl::Status> promise_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<RunningModel>> RunningModel::Load(const Shared& shared,
                                                                 const ServerConfig& config,
                                                                 uint64_t first_sequence) {
  LIFT_ASSIGN_OR_RETURN(std::unique_ptr<ServingModel> serving, LoadServingModel(config));
  return std::unique_ptr<RunningModel>(
      new RunningModel(shared, config, std::move(serving), first_sequence));
}

RunningModel::RunningModel(const Shared& shared, const ServerConfig& config,
                           std::unique_ptr<ServingModel> serving, uint64_t first_sequence)
    : shared_(shared),
      config_(config),
      serving_(std::move(serving)),
      probes_(shared.probes, serving_->info),
      observers_({&probes_}, &shared.charging),
      watched_(*serving_->model) {
  EngineOptions options{.max_batch = config.max_batch,
                        .max_waiting = config.max_queue,
                        .prefill_chunk_tokens = config.prefill_chunk,
                        .escalation = config.escalate,
                        .router = serving_->router,
                        .swap_bytes = config.swap_mb << 20,
                        .weight_resident_bytes = serving_->info.resident_bytes,
                        .first_sequence = first_sequence,
                        .observer = &observers_};
  if (shared.ledger != nullptr) {
    observers_.Add(&ledger_.emplace(*shared.ledger, serving_->info));
    options.acknowledge = shared.ledger->acknowledge();
    options.idle_charge = shared.ledger->charge_interval();
  }
  if (shared.log != nullptr) observers_.Add(&log_.emplace(*shared.log, serving_->info));
  engine_ = std::make_unique<Engine>(watched_, serving_->tokenizer, options);
  services_.reset(new rpc::ServiceContext{*engine_, serving_->tokenizer, serving_->chat_template,
                                          serving_->info, shared.services, &observers_});
}

RunningModel::~RunningModel() = default;

absl::Status RunningModel::WarmUp() {
  EngineRequest request;
  request.tenant = kOverheadTenant;
  request.prompt = {0};
  request.stopping.max_new_tokens = 1;
  request.stopping.ignore_eos = true;
  auto listener = std::make_shared<FinishedPromise>();
  LIFT_RETURN_IF_ERROR(engine_->Submit(std::move(request), listener).status());
  LIFT_RETURN_IF_ERROR(listener->Wait());
  watchdog_ = std::make_unique<Watchdog>(watched_, config_.watchdog_seconds, shared_.stuck);
  return absl::OkStatus();
}

void RunningModel::VerifyInBackground() {
  if (config_.verify != "background") return;
  verification_ = std::make_unique<BackgroundVerification>(
      serving_->weights, serving_->kept, [](const absl::Status& damage) {
        std::fprintf(stderr, "lift-server: %s\n", std::string(damage.message()).c_str());
        std::_Exit(EXIT_FAILURE);
      });
}

// What cannot be read is an error now and a line in the log later.
absl::Status RunningModel::StartGovernor(std::function<void()> changed) {
  MemoryGovernor::Options options;
  LIFT_ASSIGN_OR_RETURN(options.schedule, MemorySchedule::Parse(config_.memory_schedule));
  if (options.schedule.empty() && config_.memory_pressure.empty()) return absl::OkStatus();
  if (!config_.memory_pressure.empty()) {
    LIFT_RETURN_IF_ERROR(ReadPressure(config_.memory_pressure).status());
  }
  options.pressure_path = config_.memory_pressure;
  options.pressure.threshold = config_.memory_pressure_percent;
  options.changed = std::move(changed);
  options.report = shared_.report;
  governor_ = std::make_unique<MemoryGovernor>(*engine_, serving_->info, std::move(options));
  return absl::OkStatus();
}

}  // namespace lift
