// What ledger.cc (writing), ledger_decisions.cc and ledger_query.cc (reading) share.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "server/audit/chain.h"
#include "server/billing/decision_rows.h"
#include "server/billing/ledger.h"
#include "server/billing/sqlite.h"

namespace lift {

inline constexpr int64_t kLedgerMillion = 1000000, kLedgerHour = 3600, kLedgerDay = 86400;

inline int64_t LedgerWhole(ByteMicros value) {
  return static_cast<int64_t>(value / kLedgerMillion);
}
inline int64_t LedgerRest(ByteMicros value) { return static_cast<int64_t>(value % kLedgerMillion); }
inline ByteMicros LedgerJoined(int64_t whole, int64_t rest) {
  return static_cast<ByteMicros>(whole) * kLedgerMillion + static_cast<ByteMicros>(rest);
}

struct Ledger::Impl {
  std::string path;
  int lock_fd = -1;
  int64_t epoch = 0, began_us = 0;

  std::mutex mutex;  // of the connection that writes
  sqlite3* db = nullptr;
  std::unique_ptr<sqlite::Statement> put_request, put_line, put_residency;

  AuditKey audit_key;
  std::unique_ptr<sqlite::Statement> put_decision, put_open_decision, drop_open_decision;
  std::optional<DecisionHead> head;  // within a transaction that appended to the log

  // A second connection sees what is committed and holds no writer up.
  std::mutex reader_mutex;
  sqlite3* reader = nullptr;

  ~Impl();
  absl::Status Lock();
  absl::Status Configure(LedgerSync sync);
  absl::Status BeginEpoch();
  absl::Status OpenReader();
  void Prepare();
  absl::Status Put(const LedgerRecord& record);
  // The log of decisions; in ledger_decisions.cc.
  void PrepareDecisions();
  absl::Status BeginDecisions();
  absl::Status CloseOpenDecisions();
  absl::Status LoadHead();
  absl::Status StoreHead();
  absl::Status AppendDecision(RoutingDecision decision);
  absl::Status PutDecision(const LedgerRecord& record);
  absl::Status Fold(int64_t before, int64_t& folded);
  absl::Status DropFolded(int64_t before, int64_t& folded);
  // Runs `body` as one transaction.
  template <class F>
  absl::Status Transact(F&& body) {
    LIFT_RETURN_IF_ERROR(sqlite::Execute(db, "BEGIN IMMEDIATE"));
    absl::Status status = body();
    if (status.ok() && head) status = StoreHead();
    head.reset();
    if (status.ok()) status = sqlite::Execute(db, "COMMIT");
    if (!status.ok()) sqlite::Execute(db, "ROLLBACK").IgnoreError();
    return status;
  }
};

}  // namespace lift
