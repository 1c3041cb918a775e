// Reading the ledger: sums, records, audit. All of it on the reading connection.
#include <algorithm>
#include <map>
#include <tuple>

#include "server/billing/ledger_impl.h"

namespace lift {
namespace {

using sqlite::Statement;

using SumMap = std::map<std::tuple<int64_t, std::string, double, std::string>, LedgerSum>;

int64_t PeriodOf(int64_t hour, const Ledger::Query& query, Ledger::Granularity granularity) {
  switch (granularity) {
    case Ledger::Granularity::kTotal:
      return query.begin;
    case Ledger::Granularity::kHour:
      return hour;
    case Ledger::Granularity::kDay:
      return hour / kLedgerDay * kLedgerDay;
  }
  return query.begin;
}

// Memory x time, and the counts of the days whose requests are gone.
absl::Status AddLines(sqlite3* db, const Ledger::Query& query, Ledger::Granularity granularity,
                      SumMap& sums) {
  // Both halves are 64-bit columns; their sums are taken here, in 128 bits.
  Statement select(
      db,
      "SELECT l.hour, r.tenant, l.variant, l.lambda, l.weight_s, l.weight_us, l.kv_s, "
      "l.kv_us, 0, 0, 0 FROM lines l JOIN requests r USING (epoch, sequence) WHERE l.hour >= ?1 "
      "AND l.hour < ?2 AND (?3 = '' OR r.tenant = ?3) AND (?4 = '' OR l.variant = ?4) UNION ALL "
      "SELECT day, tenant, variant, lambda, weight_s, weight_us, kv_s, kv_us, requests, "
      "prompt_tokens, generated_tokens FROM daily WHERE day >= ?1 AND day < ?2 AND (?3 = '' OR "
      "tenant = ?3) AND (?4 = '' OR variant = ?4)");
  select.Bind(query.begin).Bind(query.end).Bind(query.tenant).Bind(query.variant);
  for (;;) {
    LIFT_ASSIGN_OR_RETURN(const bool row, select.Step());
    if (!row) return absl::OkStatus();
    const int64_t period = PeriodOf(select.Int(0), query, granularity);
    LedgerSum& sum = sums[{period, select.Text(1), select.Double(3), select.Text(2)}];
    sum.weight_byte_us += LedgerJoined(select.Int(4), select.Int(5));
    sum.kv_byte_us += LedgerJoined(select.Int(6), select.Int(7));
    sum.requests += select.Int(8);
    sum.prompt_tokens += select.Int(9);
    sum.generated_tokens += select.Int(10);
  }
}

// Requests and tokens of those that are still there one by one.
absl::Status AddRequests(sqlite3* db, const Ledger::Query& query, Ledger::Granularity granularity,
                         SumMap& sums) {
  std::map<std::string, double> lambdas;  // for requests that used no memory
  for (const auto& [key, sum] : sums) lambdas[std::get<3>(key)] = std::get<2>(key);
  Statement select(
      db,
      "SELECT started_us / 3600000000 * 3600, tenant, variant, (SELECT lambda FROM lines l WHERE "
      "l.epoch = r.epoch AND l.sequence = r.sequence AND l.variant = r.variant LIMIT 1) AS "
      "precision, COUNT(*), SUM(prompt_tokens), SUM(generated_tokens) FROM requests r WHERE "
      "sequence > 0 AND state = 1 AND started_us >= ?1 AND started_us < ?2 AND (?3 = '' OR tenant "
      "= ?3) AND (?4 = '' OR variant = ?4) GROUP BY 1, 2, 3, 4");
  const auto micros = [](int64_t seconds) {
    return std::clamp(seconds, INT64_MIN / kLedgerMillion, INT64_MAX / kLedgerMillion) *
           kLedgerMillion;
  };
  select.Bind(micros(query.begin)).Bind(micros(query.end)).Bind(query.tenant).Bind(query.variant);
  for (;;) {
    LIFT_ASSIGN_OR_RETURN(const bool row, select.Step());
    if (!row) return absl::OkStatus();
    const std::string variant = select.Text(2);
    const double lambda = select.IsNull(3) ? lambdas[variant] : select.Double(3);
    LedgerSum& sum =
        sums[{PeriodOf(select.Int(0), query, granularity), select.Text(1), lambda, variant}];
    sum.requests += select.Int(4);
    sum.prompt_tokens += select.Int(5);
    sum.generated_tokens += select.Int(6);
  }
}

absl::Status ReadLines(Statement& lines, LedgerRecord& record) {
  lines.Bind(record.epoch).Bind(record.sequence);
  for (;;) {
    LIFT_ASSIGN_OR_RETURN(const bool line, lines.Step());
    if (!line) break;
    record.lines.push_back({lines.Int(0), lines.Text(1), lines.Double(2),
                            LedgerJoined(lines.Int(3), lines.Int(4)),
                            LedgerJoined(lines.Int(5), lines.Int(6))});
  }
  lines.Reset();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<LedgerSum>> Ledger::Sums(const Query& query,
                                                    Granularity granularity) const {
  const std::lock_guard lock(impl_->reader_mutex);
  SumMap sums;
  // One picture: no commit in between.
  LIFT_RETURN_IF_ERROR(sqlite::Execute(impl_->reader, "BEGIN"));
  absl::Status status = AddLines(impl_->reader, query, granularity, sums);
  if (status.ok()) status = AddRequests(impl_->reader, query, granularity, sums);
  sqlite::Execute(impl_->reader, "COMMIT").IgnoreError();
  LIFT_RETURN_IF_ERROR(status);
  std::vector<LedgerSum> result;
  for (auto& [key, sum] : sums) {
    std::tie(sum.period, sum.tenant, sum.lambda, sum.variant) = key;
    result.push_back(std::move(sum));
  }
  return result;
}

absl::StatusOr<std::vector<LedgerRecord>> Ledger::Records(const Query& query, int64_t after_epoch,
                                                          int64_t after_sequence, int limit) const {
  const std::lock_guard lock(impl_->reader_mutex);
  Statement select(
      impl_->reader,
      "SELECT epoch, sequence, state, request_id, tenant, variant, code, "
      "finish_reason, started_us, finished_us, prompt_tokens, generated_tokens, "
      "cached_tokens FROM requests r WHERE sequence > 0 AND (epoch, sequence) > (?4, "
      "?5) AND (?3 = '' OR tenant = ?3) AND (?7 = '' OR variant = ?7) AND (started_us / 1000000 "
      "BETWEEN ?1 AND ?2 - 1 OR EXISTS (SELECT 1 FROM lines l WHERE l.epoch = r.epoch AND "
      "l.sequence = r.sequence AND l.hour >= ?1 AND l.hour < ?2)) "
      "ORDER BY epoch, sequence LIMIT ?6");
  select.Bind(query.begin).Bind(query.end).Bind(query.tenant);
  select.Bind(after_epoch).Bind(after_sequence).Bind(int64_t{limit}).Bind(query.variant);
  Statement lines(impl_->reader,
                  "SELECT hour, variant, lambda, weight_s, weight_us, kv_s, kv_us FROM lines WHERE "
                  "epoch = ? AND sequence = ? ORDER BY hour, lambda");
  std::vector<LedgerRecord> records;
  for (;;) {
    LIFT_ASSIGN_OR_RETURN(const bool row, select.Step());
    if (!row) return records;
    LedgerRecord r;
    r.epoch = select.Int(0), r.sequence = select.Int(1);
    r.state = static_cast<LedgerState>(select.Int(2));
    r.request_id = select.Text(3), r.tenant = select.Text(4), r.variant = select.Text(5);
    r.code = select.Text(6), r.finish_reason = select.Text(7);
    r.started_us = select.Int(8), r.finished_us = select.Int(9);
    r.prompt_tokens = select.Int(10), r.generated_tokens = select.Int(11);
    r.cached_tokens = select.Int(12);
    LIFT_RETURN_IF_ERROR(ReadLines(lines, r));
    records.push_back(std::move(r));
  }
}

absl::StatusOr<LedgerAudit> Ledger::Audit(std::optional<int64_t> hour) const {
  const std::lock_guard lock(impl_->reader_mutex);
  LedgerAudit audit;
  const auto sum = [&](const std::string& columns, const char* table, bool of_hour,
                       ByteMicros& into) -> absl::Status {
    Statement select(impl_->reader, absl::StrCat("SELECT ", columns, " FROM ", table,
                                                 of_hour ? " WHERE hour = ?1 AND epoch = ?2" : "")
                                        .c_str());
    if (of_hour) select.Bind(*hour).Bind(impl_->epoch);
    LIFT_ASSIGN_OR_RETURN(const bool row, select.Step());
    if (row) into += LedgerJoined(select.Int(0), 0) + LedgerJoined(0, select.Int(1));
    return absl::OkStatus();
  };
  constexpr const char* kBoth =
      "COALESCE(SUM(weight_s) + SUM(kv_s), 0), COALESCE(SUM(weight_us) + SUM(kv_us), 0)";
  LIFT_RETURN_IF_ERROR(sqlite::Execute(impl_->reader, "BEGIN"));
  absl::Status status = sum(kBoth, "lines", hour.has_value(), audit.lines);
  if (status.ok()) {
    status = sum("COALESCE(SUM(byte_s), 0), COALESCE(SUM(byte_us), 0)", "residency",
                 hour.has_value(), audit.resident);
  }
  if (status.ok() && !hour) status = sum(kBoth, "daily", false, audit.lines);
  sqlite::Execute(impl_->reader, "COMMIT").IgnoreError();
  LIFT_RETURN_IF_ERROR(status);
  return audit;
}

}  // namespace lift
