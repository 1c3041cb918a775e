// The log of routing decisions: rows of requests that ended, each chained to the one before, in
// the transaction that ends the request.
#include <algorithm>
#include <cstdint>

#include "server/billing/ledger_impl.h"

namespace lift {

using sqlite::Statement;

void Ledger::Impl::PrepareDecisions() {
  const std::string values =
      absl::StrCat("(", DecisionColumns(), ") VALUES (", DecisionParameters(), ")");
  // A request has one row, however often its end is written.
  put_decision = std::make_unique<Statement>(
      db,
      absl::StrCat("INSERT INTO decisions ", values, " ON CONFLICT (epoch, sequence) DO NOTHING")
          .c_str());
  put_open_decision = std::make_unique<Statement>(
      db, absl::StrCat("INSERT OR REPLACE INTO open_decisions ", values).c_str());
  drop_open_decision = std::make_unique<Statement>(
      db, "DELETE FROM open_decisions WHERE epoch = ? AND sequence = ?");
}

// Whatever was done to the file, the next row finds a free place and the ledger can be written. A
// head that is not the last row's, or that this server did not seal, must not be made good by the
// next one: a place is left out, which ChainVerifier finds from then on.
absl::Status Ledger::Impl::LoadHead() {
  LIFT_ASSIGN_OR_RETURN(DecisionHead found, ReadDecisionHead(db));
  Statement select(db,
                   "SELECT position, hash, key_id FROM decisions ORDER BY position DESC LIMIT 1");
  LIFT_ASSIGN_OR_RETURN(const bool rows, select.Step());
  const int64_t last = rows ? select.Int(0) : 0;
  bool sound = !rows;
  if (found.log_id.empty()) {
    Statement random(db, "SELECT lower(hex(randomblob(16)))");
    LIFT_RETURN_IF_ERROR(random.Step().status());
    found.log_id = random.Text(0);
    found.hash = FirstLink(found.log_id);
  } else {
    // Once a row has a key no head goes without.
    const bool may_lack = found.key_id.empty() && (!rows || select.Text(2).empty());
    const AuditKey sealer = may_lack ? AuditKey() : audit_key;
    sound = found.count == last && found.seal == HeadSeal(found, sealer) &&
            found.hash == (rows ? select.Text(1) : FirstLink(found.log_id));
  }
  constexpr int64_t kFarthest = INT64_MAX - 2;
  found.count = std::min(std::max(found.count, last), kFarthest) + (sound ? 0 : 1);
  head = std::move(found);
  return absl::OkStatus();
}

absl::Status Ledger::Impl::StoreHead() {
  head->key_id = audit_key.id();
  head->seal = HeadSeal(*head, audit_key);
  Statement put(db, "INSERT OR REPLACE INTO decision_head VALUES (1, ?, ?, ?, ?, ?)");
  return put.Bind(head->log_id)
      .Bind(head->count)
      .Bind(head->hash)
      .Bind(head->key_id)
      .Bind(head->seal)
      .Run();
}

absl::Status Ledger::Impl::AppendDecision(RoutingDecision decision) {
  if (!head) LIFT_RETURN_IF_ERROR(LoadHead());
  SealDecision(decision, head->count + 1, head->hash, audit_key);
  BindDecision(decision, *put_decision);
  LIFT_RETURN_IF_ERROR(put_decision->Run());
  if (sqlite3_changes64(db) == 0) return absl::OkStatus();  // it is there
  head->count = decision.position;
  head->hash = decision.hash;
  return absl::OkStatus();
}

absl::Status Ledger::Impl::PutDecision(const LedgerRecord& record) {
  RoutingDecision decision = *record.decision;
  decision.epoch = epoch, decision.sequence = record.sequence;
  if (record.state == LedgerState::kRunning) {
    CleanDecision(decision);
    BindDecision(decision, *put_open_decision);
    return put_open_decision->Run();
  }
  LIFT_RETURN_IF_ERROR(drop_open_decision->Bind(epoch).Bind(record.sequence).Run());
  return AppendDecision(std::move(decision));
}

// What a server that died had decided, at the end of the log of its time.
absl::Status Ledger::Impl::CloseOpenDecisions() {
  std::vector<RoutingDecision> open;
  Statement select(db, absl::StrCat("SELECT ", DecisionColumns(),
                                    " FROM open_decisions ORDER BY epoch, sequence")
                           .c_str());
  for (;;) {
    LIFT_ASSIGN_OR_RETURN(const bool row, select.Step());
    if (!row) break;
    open.push_back(ReadDecision(select));
  }
  for (RoutingDecision& decision : open) {
    decision.outcome = "ABORTED";
    LIFT_RETURN_IF_ERROR(AppendDecision(std::move(decision)));
  }
  return sqlite::Execute(db, "DELETE FROM open_decisions");
}

absl::Status Ledger::Impl::BeginDecisions() {
  LIFT_RETURN_IF_ERROR(LoadHead());
  if (!head->key_id.empty() && head->key_id != audit_key.id()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the log of decisions in ", path, " is kept with the key ", head->key_id,
                     "; give it with --audit-key-file, or begin a new ledger"));
  }
  return CloseOpenDecisions();
}

absl::StatusOr<DecisionPage> Ledger::Decisions(const DecisionQuery& query, int64_t after,
                                               int64_t limit) const {
  const std::lock_guard lock(impl_->reader_mutex);
  return ReadDecisionPage(impl_->reader, query, after, limit);
}

}  // namespace lift
