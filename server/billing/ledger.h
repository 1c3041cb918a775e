// The durable ledger: memory x time by request, hour and variant, in SQLite.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/base/status.h"
#include "server/audit/chain.h"
#include "server/billing/decision_rows.h"
#include "server/billing/ledger_sum.h"
#include "server/billing/meter.h"

namespace lift {

// How far a commit must have got before it counts: on the disk (survives power loss), or in the
// operating system (survives the process).
enum class LedgerSync { kFull, kNormal };

// What one request (or idleness or overhead, which have rows of their own) used of one variant in
// one hour. Values are totals of that hour so far, never differences: writing one again changes
// nothing.
struct LedgerLine {
  int64_t hour = 0;     // start, Unix seconds
  std::string variant;  // empty for memory that belongs to none
  double lambda = 0;
  ByteMicros weight_byte_us = 0, kv_byte_us = 0;
};

enum class LedgerState {
  kRunning = 0,   // lines are its latest checkpoint
  kFinished = 1,  // and so told to the client
  kLost = 2,      // the server died while it ran; billed to its last checkpoint
};

// One row per request. (epoch, sequence) names it for ever: an epoch is one run of the server, a
// sequence is the engine's number. Idleness and overhead are the sequences 0 and -1.
struct LedgerRecord {
  int64_t epoch = 0, sequence = 0;
  LedgerState state = LedgerState::kRunning;
  std::string request_id, tenant, variant, code, finish_reason;
  int64_t started_us = 0, finished_us = 0;  // Unix
  int64_t prompt_tokens = 0, generated_tokens = 0, cached_tokens = 0;
  std::vector<LedgerLine> lines;
  // Once the router has decided. Joins the log of decisions with the request's end.
  std::optional<RoutingDecision> decision = {};
};

// Resident bytes x time of one hour of an epoch, counted apart from the lines that must sum to it.
struct LedgerResidency {
  int64_t hour = 0;
  ByteMicros byte_us = 0;
};

struct LedgerAudit {
  ByteMicros lines = 0, resident = 0;
  bool exact() const { return lines == resident; }
};

// Thread-safe. Errors: UNAVAILABLE naming the file and SQLite's reason.
class Ledger {
 public:
  // Creates or opens the file, brings its schema up to date and begins a new epoch: what earlier
  // epochs left running becomes kLost. FAILED_PRECONDITION if a newer program wrote the file or its
  // log of decisions is kept with a key and none is given, UNAVAILABLE if another process has it
  // open.
  static absl::StatusOr<std::unique_ptr<Ledger>> Open(const std::string& path, LedgerSync sync,
                                                      AuditKey audit_key = {});
  ~Ledger();

  int64_t epoch() const;
  // When the file's first epoch began, Unix microseconds.
  int64_t began_us() const;
  // One transaction: all or nothing.
  absl::Status Write(std::span<const LedgerRecord> records,
                     std::span<const LedgerResidency> residency);

  enum class Granularity { kTotal, kHour, kDay };
  struct Query {
    std::string tenant = {};             // empty: all, __idle__ and __overhead__ included
    std::string variant = {};            // empty: all; of a record the one it ended with
    int64_t begin = 0, end = INT64_MAX;  // Unix seconds; whole hours (whole days past retention)
  };
  // Of what is committed, without holding up those who write. Ordered by period, tenant, lambda,
  // variant.
  absl::StatusOr<std::vector<LedgerSum>> Sums(const Query& query, Granularity granularity) const;
  // Requests by (epoch, sequence), after the given one; those that began or used
  // memory in the period.
  absl::StatusOr<std::vector<LedgerRecord>> Records(const Query& query, int64_t after_epoch,
                                                    int64_t after_sequence, int limit) const;
  // The log of routing decisions, after a position (0: from the beginning). RollUp leaves it alone.
  absl::StatusOr<DecisionPage> Decisions(const DecisionQuery& query, int64_t after,
                                         int64_t limit) const;
  // Of one hour of this epoch, or of everything the ledger holds.
  absl::StatusOr<LedgerAudit> Audit(std::optional<int64_t> hour) const;
  // Folds the rows of requests that ended before `before` (Unix seconds, cut to a day) into daily
  // sums by tenant and variant; returns how many rows went. Sums stay what they were.
  absl::StatusOr<int64_t> RollUp(int64_t before);

 private:
  struct Impl;
  explicit Ledger(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lift
