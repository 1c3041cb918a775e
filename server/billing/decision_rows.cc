#include "server/billing/decision_rows.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace lift {
namespace {

using sqlite::Statement;

constexpr int64_t kMillion = 1000000;

struct Binder {
  Statement& statement;
  void operator()(const char*, int64_t value) { statement.Bind(value); }
  void operator()(const char*, bool value) { statement.Bind(int64_t{value}); }
  void operator()(const char*, double value) { statement.Bind(value); }
  void operator()(const char*, const std::string& text) { statement.Bind(std::string_view(text)); }
};

struct Taker {
  const Statement& row;
  int column = 0;
  void operator()(const char*, int64_t& value) { value = row.Int(column++); }
  void operator()(const char*, bool& value) { value = row.Int(column++) != 0; }
  void operator()(const char*, double& value) { value = row.Double(column++); }
  void operator()(const char*, std::string& text) { text = row.Text(column++); }
};

template <class F>
std::string ForEachColumn(F&& of) {
  std::string text;
  const RoutingDecision none;
  VisitDecision(none, [&](const char* name, const auto&) {
    absl::StrAppend(&text, text.empty() ? "" : ", ", of(name));
  });
  return text;
}

absl::StatusOr<std::vector<RoutingDecision>> ReadRows(sqlite3* db, const DecisionQuery& query,
                                                      int64_t after, int64_t limit) {
  const auto micros = [](int64_t seconds) {
    return std::clamp(seconds, INT64_MIN / kMillion, INT64_MAX / kMillion) * kMillion;
  };
  Statement select(db, absl::StrCat("SELECT ", DecisionColumns(),
                                    " FROM decisions WHERE position > ?1 AND (?2 = '' OR tenant = "
                                    "?2) AND (?3 = '' OR variant = ?3) AND time_us >= ?4 AND "
                                    "time_us < ?5 ORDER BY position LIMIT ?6")
                           .c_str());
  select.Bind(after).Bind(query.tenant).Bind(query.variant);
  // From the beginning is from any time, also one that was put there later.
  select.Bind(query.begin <= 0 ? INT64_MIN : micros(query.begin));
  select.Bind(query.end == INT64_MAX ? INT64_MAX : micros(query.end)).Bind(limit);
  std::vector<RoutingDecision> rows;
  for (;;) {
    LIFT_ASSIGN_OR_RETURN(const bool row, select.Step());
    if (!row) return rows;
    rows.push_back(ReadDecision(select));
  }
}

}  // namespace

std::string DecisionColumns() {
  return ForEachColumn([](const char* name) { return name; });
}

std::string DecisionParameters() {
  return ForEachColumn([](const char*) { return "?"; });
}

void BindDecision(const RoutingDecision& decision, Statement& statement) {
  VisitDecision(decision, Binder{statement});
}

RoutingDecision ReadDecision(const Statement& row) {
  RoutingDecision decision;
  VisitDecision(decision, Taker{row});
  return decision;
}

absl::StatusOr<DecisionHead> ReadDecisionHead(sqlite3* db) {
  Statement select(db, "SELECT log_id, count, hash, key_id, seal FROM decision_head");
  LIFT_ASSIGN_OR_RETURN(const bool there, select.Step());
  if (!there) return DecisionHead{};
  return DecisionHead{.log_id = select.Text(0),
                      .count = select.Int(1),
                      .hash = select.Text(2),
                      .key_id = select.Text(3),
                      .seal = select.Text(4)};
}

absl::StatusOr<DecisionPage> ReadDecisionPage(sqlite3* db, const DecisionQuery& query,
                                              int64_t after, int64_t limit) {
  DecisionPage page;
  LIFT_RETURN_IF_ERROR(sqlite::Execute(db, "BEGIN"));
  auto head = ReadDecisionHead(db);
  auto rows = ReadRows(db, query, after, limit);
  sqlite::Execute(db, "COMMIT").IgnoreError();
  LIFT_ASSIGN_OR_RETURN(page.head, std::move(head));
  LIFT_ASSIGN_OR_RETURN(page.rows, std::move(rows));
  return page;
}

absl::StatusOr<std::unique_ptr<DecisionFile>> DecisionFile::Open(const std::string& path) {
  sqlite3* db = nullptr;
  const int code =
      sqlite3_open_v2(path.c_str(), &db, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, nullptr);
  std::unique_ptr<DecisionFile> file(new DecisionFile(db));
  if (code != SQLITE_OK) return sqlite::Error(db, path);
  sqlite3_busy_timeout(db, 2000);
  Statement table(db, "SELECT COUNT(*) FROM sqlite_master WHERE name = 'decision_head'");
  LIFT_RETURN_IF_ERROR(table.Step().status());
  if (table.Int(0) > 0) return file;
  return absl::FailedPreconditionError(
      absl::StrCat(path,
                   " has no log of routing decisions; a lift-server that knows it adds one "
                   "when it opens the ledger"));
}

}  // namespace lift
