#include "server/billing/ledger.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <map>
#include <mutex>
#include <tuple>

#include "server/billing/ledger_schema.h"
#include "server/billing/sqlite.h"

namespace lift {
namespace {

using sqlite::Execute;
using sqlite::Statement;

constexpr int64_t kMillion = 1000000, kDay = 86400;

int64_t Whole(ByteMicros value) { return static_cast<int64_t>(value / kMillion); }
int64_t Rest(ByteMicros value) { return static_cast<int64_t>(value % kMillion); }
ByteMicros Joined(int64_t whole, int64_t rest) {
  return static_cast<ByteMicros>(whole) * kMillion + static_cast<ByteMicros>(rest);
}

int64_t NowMicros() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

struct Ledger::Impl {
  std::string path;
  int lock_fd = -1;
  sqlite3* db = nullptr;
  int64_t epoch = 0;
  mutable std::mutex mutex;
  std::unique_ptr<Statement> put_request, put_line, put_residency;

  ~Impl() {
    put_request.reset();
    put_line.reset();
    put_residency.reset();
    sqlite3_close(db);
    if (lock_fd >= 0) ::close(lock_fd);
  }
  absl::Status Lock();
  absl::Status Configure(LedgerSync sync);
  absl::Status BeginEpoch();
  void Prepare();
  absl::Status Put(const LedgerRecord& record);
  absl::Status Fold(int64_t before, int64_t& folded);
  // Runs `body` as one transaction.
  template <class F>
  absl::Status Transact(F&& body) {
    LIFT_RETURN_IF_ERROR(Execute(db, "BEGIN IMMEDIATE"));
    absl::Status status = body();
    if (status.ok()) status = Execute(db, "COMMIT");
    if (!status.ok()) Execute(db, "ROLLBACK").IgnoreError();
    return status;
  }
};

absl::Status Ledger::Impl::Configure(LedgerSync sync) {
  sqlite3_busy_timeout(db, 2000);
  LIFT_RETURN_IF_ERROR(Execute(db, "PRAGMA journal_mode = WAL"));
  return Execute(
      db, sync == LedgerSync::kFull ? "PRAGMA synchronous = FULL" : "PRAGMA synchronous = NORMAL");
}

// One server per ledger: a second one would take the first one's live requests for lost. Readers
// (sqlite3, backups) are welcome, so this is not SQLite's own exclusive mode.
absl::Status Ledger::Impl::Lock() {
  const std::string file = path + ".lock";
  lock_fd = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock_fd < 0) {
    return absl::UnavailableError(absl::StrCat("cannot create ", file, ": ", std::strerror(errno)));
  }
  if (::flock(lock_fd, LOCK_EX | LOCK_NB) == 0) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("the ledger ", path,
                   " belongs to another running lift-server; give each one "
                   "its own file"));
}

absl::Status Ledger::Impl::BeginEpoch() {
  return Transact([&]() -> absl::Status {
    Statement lost(db,
                   "UPDATE requests SET state = 2, code = 'ABORTED', finish_reason = 'LOST' "
                   "WHERE state = 0 AND sequence > 0");
    LIFT_RETURN_IF_ERROR(lost.Run());
    Statement next(db, "SELECT COALESCE(MAX(epoch), 0) + 1 FROM epochs");
    LIFT_RETURN_IF_ERROR(next.Step().status());
    epoch = next.Int(0);
    Statement insert(db, "INSERT INTO epochs (epoch, started_us) VALUES (?, ?)");
    return insert.Bind(epoch).Bind(NowMicros()).Run();
  });
}

void Ledger::Impl::Prepare() {
  // A finished row is final: a late checkpoint of the same request cannot reopen it.
  put_request = std::make_unique<Statement>(
      db,
      "INSERT INTO requests VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (epoch, sequence) DO "
      "UPDATE SET state=excluded.state, variant=excluded.variant, code=excluded.code, "
      "finish_reason=excluded.finish_reason, finished_us=excluded.finished_us, "
      "prompt_tokens=excluded.prompt_tokens, generated_tokens=excluded.generated_tokens, "
      "cached_tokens=excluded.cached_tokens WHERE requests.state = 0");
  put_line =
      std::make_unique<Statement>(db, "INSERT OR REPLACE INTO lines VALUES (?,?,?,?,?,?,?,?,?)");
  put_residency =
      std::make_unique<Statement>(db, "INSERT OR REPLACE INTO residency VALUES (?,?,?,?)");
}

absl::StatusOr<std::unique_ptr<Ledger>> Ledger::Open(const std::string& path, LedgerSync sync) {
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  LIFT_RETURN_IF_ERROR(impl->Lock());
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
  if (sqlite3_open_v2(path.c_str(), &impl->db, flags, nullptr) != SQLITE_OK) {
    return sqlite::Error(impl->db, path);
  }
  LIFT_RETURN_IF_ERROR(impl->Configure(sync));
  LIFT_RETURN_IF_ERROR(MigrateLedger(impl->db));
  LIFT_RETURN_IF_ERROR(impl->BeginEpoch());
  impl->Prepare();
  return std::unique_ptr<Ledger>(new Ledger(std::move(impl)));
}

Ledger::Ledger(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Ledger::~Ledger() {
  Statement end(impl_->db, "UPDATE epochs SET ended_us = ? WHERE epoch = ?");
  end.Bind(NowMicros()).Bind(impl_->epoch).Run().IgnoreError();
}

int64_t Ledger::epoch() const { return impl_->epoch; }

absl::Status Ledger::Impl::Put(const LedgerRecord& r) {
  LIFT_RETURN_IF_ERROR(put_request->Bind(epoch)
                           .Bind(r.sequence)
                           .Bind(static_cast<int64_t>(r.state))
                           .Bind(r.request_id)
                           .Bind(r.tenant)
                           .Bind(r.variant)
                           .Bind(r.code)
                           .Bind(r.finish_reason)
                           .Bind(r.started_us)
                           .Bind(r.finished_us)
                           .Bind(r.prompt_tokens)
                           .Bind(r.generated_tokens)
                           .Bind(r.cached_tokens)
                           .Run());
  for (const LedgerLine& line : r.lines) {
    LIFT_RETURN_IF_ERROR(put_line->Bind(epoch)
                             .Bind(r.sequence)
                             .Bind(line.hour)
                             .Bind(line.variant)
                             .Bind(line.lambda)
                             .Bind(Whole(line.weight_byte_us))
                             .Bind(Rest(line.weight_byte_us))
                             .Bind(Whole(line.kv_byte_us))
                             .Bind(Rest(line.kv_byte_us))
                             .Run());
  }
  return absl::OkStatus();
}

absl::Status Ledger::Write(std::span<const LedgerRecord> records,
                           std::span<const LedgerResidency> residency) {
  const std::lock_guard lock(impl_->mutex);
  return impl_->Transact([&]() -> absl::Status {
    for (const LedgerRecord& record : records) LIFT_RETURN_IF_ERROR(impl_->Put(record));
    for (const LedgerResidency& r : residency) {
      LIFT_RETURN_IF_ERROR(impl_->put_residency->Bind(impl_->epoch)
                               .Bind(r.hour)
                               .Bind(Whole(r.byte_us))
                               .Bind(Rest(r.byte_us))
                               .Run());
    }
    return absl::OkStatus();
  });
}

absl::StatusOr<std::vector<LedgerSum>> Ledger::Sums(const Query& query,
                                                    Granularity granularity) const {
  const std::lock_guard lock(impl_->mutex);
  // Both halves are 64-bit columns; their sums are taken here, in 128 bits.
  Statement select(
      impl_->db,
      "SELECT l.hour, r.tenant, l.variant, l.lambda, l.weight_s, l.weight_us, l.kv_s, "
      "l.kv_us FROM lines l JOIN requests r USING (epoch, sequence) WHERE l.hour >= ?1 "
      "AND l.hour < ?2 AND (?3 = '' OR r.tenant = ?3) UNION ALL SELECT day, tenant, "
      "variant, lambda, weight_s, weight_us, kv_s, kv_us FROM daily WHERE day >= ?1 "
      "AND day < ?2 AND (?3 = '' OR tenant = ?3)");
  select.Bind(query.begin).Bind(query.end).Bind(query.tenant);
  std::map<std::tuple<int64_t, std::string, double, std::string>, LedgerSum> sums;
  for (;;) {
    LIFT_ASSIGN_OR_RETURN(const bool row, select.Step());
    if (!row) break;
    int64_t period = query.begin;
    if (granularity != Granularity::kTotal) period = select.Int(0);
    if (granularity == Granularity::kDay) period = period / kDay * kDay;
    LedgerSum& sum = sums[{period, select.Text(1), select.Double(3), select.Text(2)}];
    sum.weight_byte_us += Joined(select.Int(4), select.Int(5));
    sum.kv_byte_us += Joined(select.Int(6), select.Int(7));
  }
  std::vector<LedgerSum> result;
  for (auto& [key, sum] : sums) {
    std::tie(sum.period, sum.tenant, sum.lambda, sum.variant) = key;
    result.push_back(std::move(sum));
  }
  return result;
}

absl::StatusOr<std::vector<LedgerRecord>> Ledger::Records(const Query& query, int64_t after_epoch,
                                                          int64_t after_sequence, int limit) const {
  const std::lock_guard lock(impl_->mutex);
  Statement select(
      impl_->db,
      "SELECT epoch, sequence, state, request_id, tenant, variant, code, "
      "finish_reason, started_us, finished_us, prompt_tokens, generated_tokens, "
      "cached_tokens FROM requests r WHERE sequence > 0 AND (epoch, sequence) > (?4, "
      "?5) AND (?3 = '' OR tenant = ?3) AND (started_us / 1000000 BETWEEN ?1 AND ?2 - 1 OR "
      "EXISTS (SELECT 1 FROM lines l WHERE l.epoch = r.epoch AND l.sequence = "
      "r.sequence AND l.hour >= ?1 AND l.hour < ?2)) "
      "ORDER BY epoch, sequence LIMIT ?6");
  select.Bind(query.begin).Bind(query.end).Bind(query.tenant);
  select.Bind(after_epoch).Bind(after_sequence).Bind(static_cast<int64_t>(limit));
  Statement lines(impl_->db,
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
    lines.Bind(r.epoch).Bind(r.sequence);
    for (;;) {
      LIFT_ASSIGN_OR_RETURN(const bool line, lines.Step());
      if (!line) break;
      r.lines.push_back({lines.Int(0), lines.Text(1), lines.Double(2),
                         Joined(lines.Int(3), lines.Int(4)), Joined(lines.Int(5), lines.Int(6))});
    }
    lines.Reset();
    records.push_back(std::move(r));
  }
}

absl::StatusOr<LedgerAudit> Ledger::Audit(std::optional<int64_t> hour) const {
  const std::lock_guard lock(impl_->mutex);
  LedgerAudit audit;
  const int64_t all = hour.has_value() ? 0 : 1;
  const auto sum = [&](const char* sql, ByteMicros& into) -> absl::Status {
    Statement select(impl_->db, sql);
    select.Bind(all).Bind(hour.value_or(0)).Bind(impl_->epoch);
    LIFT_ASSIGN_OR_RETURN(const bool row, select.Step());
    if (row) into += Joined(select.Int(0), 0) + Joined(0, select.Int(1));
    return absl::OkStatus();
  };
  LIFT_RETURN_IF_ERROR(
      sum("SELECT COALESCE(SUM(weight_s) + SUM(kv_s), 0), COALESCE(SUM(weight_us) + SUM(kv_us), 0) "
          "FROM lines WHERE ?1 OR (hour = ?2 AND epoch = ?3)",
          audit.lines));
  LIFT_RETURN_IF_ERROR(
      sum("SELECT COALESCE(SUM(byte_s), 0), COALESCE(SUM(byte_us), 0) FROM "
          "residency WHERE ?1 OR (hour = ?2 AND epoch = ?3)",
          audit.resident));
  if (hour.has_value()) return audit;
  LIFT_RETURN_IF_ERROR(
      sum("SELECT COALESCE(SUM(weight_s) + SUM(kv_s), 0), COALESCE(SUM(weight_us) + SUM(kv_us), 0) "
          "FROM daily WHERE ?1 OR ?2 OR ?3",
          audit.lines));
  return audit;
}

absl::Status Ledger::Impl::Fold(int64_t before, int64_t& folded) {
  struct Day {
    ByteMicros weight = 0, kv = 0;
    int64_t requests = 0, prompt = 0, generated = 0;
  };
  std::map<std::tuple<int64_t, std::string, std::string, double>, Day> days;
  // Whole requests only: one with a line after the cut stays. Idleness and overhead of past epochs
  // follow the same rule.
  constexpr const char* kOld =
      "FROM requests r WHERE (state > 0 OR epoch < ?2) AND NOT EXISTS (SELECT 1 FROM lines l WHERE "
      "l.epoch = r.epoch AND l.sequence = r.sequence AND l.hour >= ?1)";
  Statement select(db, absl::StrCat("SELECT l.hour, r.tenant, l.variant, l.lambda, l.weight_s, "
                                    "l.weight_us, l.kv_s, l.kv_us, r.prompt_tokens, "
                                    "r.generated_tokens, l.sequence FROM lines l JOIN (SELECT * ",
                                    kOld, ") r USING (epoch, sequence)")
                           .c_str());
  select.Bind(before).Bind(epoch);
  for (;;) {
    LIFT_ASSIGN_OR_RETURN(const bool row, select.Step());
    if (!row) break;
    Day& day =
        days[{select.Int(0) / kDay * kDay, select.Text(1), select.Text(2), select.Double(3)}];
    day.weight += Joined(select.Int(4), select.Int(5));
    day.kv += Joined(select.Int(6), select.Int(7));
    if (select.Int(10) > 0) ++day.requests;
    day.prompt += select.Int(8), day.generated += select.Int(9);
  }
  Statement old(db,
                "SELECT weight_s, weight_us, kv_s, kv_us FROM daily WHERE day = ? AND tenant = "
                "? AND variant = ? AND lambda = ?");
  Statement put(db,
                "INSERT INTO daily VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11) ON CONFLICT DO "
                "UPDATE SET weight_s=?5, weight_us=?6, kv_s=?7, kv_us=?8, requests=requests+?9, "
                "prompt_tokens=prompt_tokens+?10, generated_tokens=generated_tokens+?11");
  for (auto& [key, day] : days) {
    const auto& [at, tenant, variant, lambda] = key;
    LIFT_ASSIGN_OR_RETURN(const bool there,
                          old.Bind(at).Bind(tenant).Bind(variant).Bind(lambda).Step());
    if (there) {
      day.weight += Joined(old.Int(0), old.Int(1));
      day.kv += Joined(old.Int(2), old.Int(3));
    }
    old.Reset();
    put.Bind(at).Bind(tenant).Bind(variant).Bind(lambda).Bind(Whole(day.weight));
    put.Bind(Rest(day.weight)).Bind(Whole(day.kv)).Bind(Rest(day.kv)).Bind(day.requests);
    LIFT_RETURN_IF_ERROR(put.Bind(day.prompt).Bind(day.generated).Run());
  }
  Statement drop_lines(
      db, absl::StrCat("DELETE FROM lines WHERE (epoch, sequence) IN (SELECT epoch, sequence ",
                       kOld, ")")
              .c_str());
  LIFT_RETURN_IF_ERROR(drop_lines.Bind(before).Bind(epoch).Run());
  // Their lines are gone, so the same condition finds them.
  Statement drop(db,
                 "DELETE FROM requests WHERE (state > 0 OR epoch < ?1) AND NOT EXISTS (SELECT "
                 "1 FROM lines l WHERE l.epoch = requests.epoch AND l.sequence = "
                 "requests.sequence) AND started_us < ?2 * 1000000");
  LIFT_RETURN_IF_ERROR(drop.Bind(epoch).Bind(before).Run());
  folded = sqlite3_changes64(db);
  return absl::OkStatus();
}

absl::StatusOr<int64_t> Ledger::RollUp(int64_t before) {
  const std::lock_guard lock(impl_->mutex);
  int64_t folded = 0;
  LIFT_RETURN_IF_ERROR(impl_->Transact([&] { return impl_->Fold(before / kDay * kDay, folded); }));
  return folded;
}

}  // namespace lift
