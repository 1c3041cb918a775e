// Routing decisions as rows of the ledger's file, for the server that writes it and for whoever
// has the file alone.
#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/base/status.h"
#include "server/audit/decision.h"
#include "server/billing/sqlite.h"

namespace lift {

struct DecisionQuery {
  std::string tenant = {}, variant = {};  // empty: all
  int64_t begin = 0, end = INT64_MAX;     // Unix seconds, of the decision
  // Nothing is left out, so the page's rows can be checked as a chain.
  bool everything() const {
    return tenant.empty() && variant.empty() && begin <= 0 && end == INT64_MAX;
  }
};

struct DecisionPage {
  std::vector<RoutingDecision> rows;  // by position
  DecisionHead head;                  // of the same moment
};

// "format, position, ...", all columns of `decisions` and `open_decisions` in VisitDecision's
// order.
std::string DecisionColumns();
std::string DecisionParameters();  // "?, ?, ..."
void BindDecision(const RoutingDecision& decision, sqlite::Statement& statement);
RoutingDecision ReadDecision(const sqlite::Statement& row);
// No row: an empty log_id.
absl::StatusOr<DecisionHead> ReadDecisionHead(sqlite3* db);
// Rows after the given position; one picture.
absl::StatusOr<DecisionPage> ReadDecisionPage(sqlite3* db, const DecisionQuery& query,
                                              int64_t after, int64_t limit);

// A ledger's file, read only; a server may have it open. Not thread-safe.
class DecisionFile {
 public:
  // UNAVAILABLE naming the file; FAILED_PRECONDITION if it has no log of decisions.
  static absl::StatusOr<std::unique_ptr<DecisionFile>> Open(const std::string& path);
  ~DecisionFile() { sqlite3_close(db_); }
  absl::StatusOr<DecisionPage> Page(const DecisionQuery& query, int64_t after, int64_t limit) {
    return ReadDecisionPage(db_, query, after, limit);
  }

 private:
  explicit DecisionFile(sqlite3* db) : db_(db) {}
  sqlite3* db_;
};

}  // namespace lift
