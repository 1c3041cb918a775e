// One model that is served: its weights, its engine, its accounts, and what watches over them.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "server/accounting/observers.h"
#include "server/accounting/request_log.h"
#include "server/accounting/server_ledger.h"
#include "server/assembly.h"
#include "server/memory/governor.h"
#include "server/metrics/probes.h"
#include "server/rpc/service_context.h"
#include "server/verification.h"
#include "server/watchdog.h"

namespace lift {

class RunningModel {
 public:
  // What all models of a server share; outlives them. log and ledger may be null.
  struct Shared {
    Probes& probes;
    RequestLog* log = nullptr;
    ServerLedger* ledger = nullptr;
    rpc::SharedServices& services;
    std::mutex& charging;                            // see ObserverList
    std::function<void(bool)> stuck;                 // see Watchdog
    std::function<void(const std::string&)> report;  // a sentence for the log; any thread
  };
  // Loads what `config` names. first_sequence: EngineOptions'. Errors: LoadServingModel's.
  static absl::StatusOr<std::unique_ptr<RunningModel>> Load(const Shared& shared,
                                                            const ServerConfig& config,
                                                            uint64_t first_sequence);
  ~RunningModel();

  // One token through the whole path: pages the weights in and proves that a first token is
  // possible. Then the watchdog begins.
  absl::Status WarmUp();
  // Checksums beside the answers, if configured; on damage the process ends, since nothing computed
  // from damaged weights may go on being sent. (The ledger loses nothing by that.)
  void VerifyInBackground();
  // The memory schedule and pressure, if configured. `changed`: what is resident changed.
  absl::Status StartGovernor(std::function<void()> changed);
  void StopGovernor() { governor_.reset(); }

  const ModelInfo& info() const { return serving_->info; }
  const std::string& warning() const { return serving_->warning; }
  const std::string& tuning() const { return serving_->tuning; }
  Engine& engine() { return *engine_; }
  const rpc::ServiceContext& services() const { return *services_; }

 private:
  RunningModel(const Shared& shared, const ServerConfig& config,
               std::unique_ptr<ServingModel> serving, uint64_t first_sequence);

  const Shared& shared_;
  const ServerConfig config_;
  // In the order of who borrows from whom.
  std::unique_ptr<ServingModel> serving_;
  ModelProbes probes_;
  std::optional<ModelLedger> ledger_;
  std::optional<ModelRequestLog> log_;
  ObserverList observers_;
  WatchedModel watched_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<rpc::ServiceContext> services_;
  std::unique_ptr<BackgroundVerification> verification_;
  std::unique_ptr<Watchdog> watchdog_;
  std::unique_ptr<MemoryGovernor> governor_;
};

}  // namespace lift
