// The ledger of a running server: opened, fed by the engine, and asked before an end is told.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/billing/ledger.h"
#include "server/billing/ledger_writer.h"
#include "server/engine/engine.h"
#include "server/metrics/usage_totals.h"
#include "server/model_info.h"

namespace lift {

// Thread-safe. Outlives the engines that it keeps the account of.
class ServerLedger {
 public:
  struct Options {
    std::string path;
    LedgerSync sync = LedgerSync::kFull;
    std::chrono::milliseconds checkpoint{1000};
    int64_t retention_days = 0;
    std::chrono::seconds drift_check{60};
    std::function<void(const std::string&)> report = {};  // see LedgerWriter::Options
    AuditKey audit_key = {};                              // of the log of decisions
  };
  // `totals` must outlive it and must hear of charges before the ledger does: it is what the
  // ledger's drift is measured against. Errors: Ledger::Open's.
  static absl::StatusOr<std::unique_ptr<ServerLedger>> Open(Options options,
                                                            const UsageTotals& totals);

  // EngineOptions::acknowledge: an end is told once its row is committed.
  std::function<void(std::function<void()>)> acknowledge();
  // EngineOptions::idle_charge.
  std::chrono::milliseconds charge_interval() const { return charge_interval_; }
  LedgerWriter::Stats stats() const { return writer_.stats(); }
  bool healthy() const { return writer_.healthy(); }
  const Ledger& ledger() const { return *ledger_; }

 private:
  friend class ModelLedger;
  ServerLedger(std::unique_ptr<Ledger> ledger, Options options, const UsageTotals& totals);

  const UsageTotals& totals_;
  const std::chrono::milliseconds charge_interval_;
  std::unique_ptr<Ledger> ledger_;
  LedgerWriter writer_;
};

// Observes one model's engine, on its thread. Borrows both. Engines that run at a time number their
// requests apart (EngineOptions::first_sequence), and no two of them charge at once.
class ModelLedger : public EngineObserver {
 public:
  ModelLedger(ServerLedger& ledger, const ModelInfo& model) : ledger_(ledger), model_(model) {}
  void OnAdmitted(const EngineRequest& request) override;
  void OnRouted(const EngineRequest& request, const RoutedEvent& event) override;
  void OnFinished(const EngineRequest& request, const FinishedEvent& event) override;
  void OnCharges(std::span<const Charge> charges, unsigned __int128 resident_byte_us) override;

 private:
  std::optional<double> ServedLambda(const FinishedEvent& event) const;

  ServerLedger& ledger_;
  const ModelInfo& model_;
  std::vector<LedgerWriter::Charge> charges_;  // reused
};

}  // namespace lift
