#include "server/billing/ledger_schema.h"

#include "server/billing/sqlite.h"

namespace lift {
namespace {

// Step i brings version i to i + 1; a released step never changes.
const char* const kSteps[] = {
    // 1: requests, their lines, what was resident.
    R"sql(
CREATE TABLE epochs (
  epoch INTEGER PRIMARY KEY,
  started_us INTEGER NOT NULL,
  ended_us INTEGER NOT NULL DEFAULT 0);
CREATE TABLE requests (
  epoch INTEGER NOT NULL, sequence INTEGER NOT NULL,
  state INTEGER NOT NULL,
  request_id TEXT NOT NULL, tenant TEXT NOT NULL, variant TEXT NOT NULL,
  code TEXT NOT NULL, finish_reason TEXT NOT NULL,
  started_us INTEGER NOT NULL, finished_us INTEGER NOT NULL,
  prompt_tokens INTEGER NOT NULL, generated_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,
  PRIMARY KEY (epoch, sequence)) WITHOUT ROWID;
CREATE TABLE lines (
  epoch INTEGER NOT NULL, sequence INTEGER NOT NULL,
  hour INTEGER NOT NULL, variant TEXT NOT NULL, lambda REAL NOT NULL,
  weight_s INTEGER NOT NULL, weight_us INTEGER NOT NULL,
  kv_s INTEGER NOT NULL, kv_us INTEGER NOT NULL,
  PRIMARY KEY (epoch, sequence, hour, variant)) WITHOUT ROWID;
CREATE TABLE residency (
  epoch INTEGER NOT NULL, hour INTEGER NOT NULL,
  byte_s INTEGER NOT NULL, byte_us INTEGER NOT NULL,
  PRIMARY KEY (epoch, hour)) WITHOUT ROWID;
CREATE INDEX lines_by_hour ON lines (hour);
)sql",
    // 2: what is left of requests past retention.
    R"sql(
CREATE TABLE daily (
  day INTEGER NOT NULL, tenant TEXT NOT NULL, variant TEXT NOT NULL, lambda REAL NOT NULL,
  weight_s INTEGER NOT NULL, weight_us INTEGER NOT NULL,
  kv_s INTEGER NOT NULL, kv_us INTEGER NOT NULL,
  requests INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, generated_tokens INTEGER NOT NULL,
  PRIMARY KEY (day, tenant, variant, lambda)) WITHOUT ROWID;
CREATE INDEX requests_by_state ON requests (state);
)sql",
    // 3: requests of a month without reading those of all years.
    "CREATE INDEX requests_by_start ON requests (started_us);",
    // 4: routing decisions, chained by hash, and those of requests that still run.
    R"sql(
CREATE TABLE decisions (
  format INTEGER NOT NULL, position INTEGER PRIMARY KEY, epoch INTEGER NOT NULL,
  sequence INTEGER NOT NULL, time_us INTEGER NOT NULL, request_id TEXT NOT NULL,
  tenant TEXT NOT NULL, model TEXT NOT NULL, weights_sha256 TEXT NOT NULL, policy TEXT NOT NULL,
  pinned INTEGER NOT NULL, pinned_variant TEXT NOT NULL, min_lambda REAL NOT NULL,
  max_quality_loss REAL NOT NULL, allow_fallback INTEGER NOT NULL, score REAL NOT NULL,
  queue_pressure REAL NOT NULL, resident_variants INTEGER NOT NULL,
  prompt_tokens INTEGER NOT NULL, prompt_class TEXT NOT NULL, language TEXT NOT NULL,
  variant TEXT NOT NULL, lambda REAL NOT NULL, bits_per_weight REAL NOT NULL,
  reason TEXT NOT NULL, fallback_from TEXT NOT NULL, served_lambda REAL NOT NULL,
  generated_tokens INTEGER NOT NULL, outcome TEXT NOT NULL, key_id TEXT NOT NULL,
  previous TEXT NOT NULL, hash TEXT NOT NULL,
  UNIQUE (epoch, sequence));
CREATE TABLE open_decisions (
  format INTEGER NOT NULL, position INTEGER NOT NULL, epoch INTEGER NOT NULL,
  sequence INTEGER NOT NULL, time_us INTEGER NOT NULL, request_id TEXT NOT NULL,
  tenant TEXT NOT NULL, model TEXT NOT NULL, weights_sha256 TEXT NOT NULL, policy TEXT NOT NULL,
  pinned INTEGER NOT NULL, pinned_variant TEXT NOT NULL, min_lambda REAL NOT NULL,
  max_quality_loss REAL NOT NULL, allow_fallback INTEGER NOT NULL, score REAL NOT NULL,
  queue_pressure REAL NOT NULL, resident_variants INTEGER NOT NULL,
  prompt_tokens INTEGER NOT NULL, prompt_class TEXT NOT NULL, language TEXT NOT NULL,
  variant TEXT NOT NULL, lambda REAL NOT NULL, bits_per_weight REAL NOT NULL,
  reason TEXT NOT NULL, fallback_from TEXT NOT NULL, served_lambda REAL NOT NULL,
  generated_tokens INTEGER NOT NULL, outcome TEXT NOT NULL, key_id TEXT NOT NULL,
  previous TEXT NOT NULL, hash TEXT NOT NULL,
  PRIMARY KEY (epoch, sequence)) WITHOUT ROWID;
CREATE TABLE decision_head (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  log_id TEXT NOT NULL, count INTEGER NOT NULL, hash TEXT NOT NULL,
  key_id TEXT NOT NULL, seal TEXT NOT NULL);
)sql",
};

}  // namespace

absl::Status MigrateLedger(sqlite3* db) {
  int64_t version = 0;
  {
    sqlite::Statement read(db, "PRAGMA user_version");
    LIFT_RETURN_IF_ERROR(read.Step().status());
    version = read.Int(0);
  }
  if (version > kLedgerVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("the ledger has schema ", version, ", this program knows ", kLedgerVersion,
                     "; start the newer lift-server that wrote it"));
  }
  if (version == kLedgerVersion) return absl::OkStatus();
  LIFT_RETURN_IF_ERROR(sqlite::Execute(db, "BEGIN IMMEDIATE"));
  absl::Status status;
  for (int64_t step = version; step < kLedgerVersion && status.ok(); ++step) {
    status = sqlite::Execute(db, kSteps[step]);
  }
  if (status.ok()) {
    status = sqlite::Execute(db, absl::StrCat("PRAGMA user_version = ", kLedgerVersion).c_str());
  }
  if (status.ok()) return sqlite::Execute(db, "COMMIT");
  sqlite::Execute(db, "ROLLBACK").IgnoreError();
  return status;
}

}  // namespace lift
