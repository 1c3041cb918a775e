#include "server/billing/ledger.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <map>
#include <tuple>

#include "server/billing/ledger_impl.h"
#include "server/billing/ledger_schema.h"

namespace lift {
namespace {

using sqlite::Execute;
using sqlite::Statement;

int64_t NowMicros() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

Ledger::Impl::~Impl() {
  put_request.reset();
  put_line.reset();
  put_residency.reset();
  put_decision.reset();
  put_open_decision.reset();
  drop_open_decision.reset();
  sqlite3_close(reader);
  sqlite3_close(db);
  if (lock_fd >= 0) ::close(lock_fd);
}

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
    LIFT_RETURN_IF_ERROR(insert.Bind(epoch).Bind(NowMicros()).Run());
    Statement first(db, "SELECT MIN(started_us) FROM epochs");
    LIFT_RETURN_IF_ERROR(first.Step().status());
    began_us = first.Int(0);
    return BeginDecisions();
  });
}

absl::Status Ledger::Impl::OpenReader() {
  const int flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX;
  if (sqlite3_open_v2(path.c_str(), &reader, flags, nullptr) != SQLITE_OK) {
    return sqlite::Error(reader, path);
  }
  sqlite3_busy_timeout(reader, 2000);
  return absl::OkStatus();
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

absl::StatusOr<std::unique_ptr<Ledger>> Ledger::Open(const std::string& path, LedgerSync sync,
                                                     AuditKey audit_key) {
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  impl->audit_key = std::move(audit_key);
  LIFT_RETURN_IF_ERROR(impl->Lock());
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
  if (sqlite3_open_v2(path.c_str(), &impl->db, flags, nullptr) != SQLITE_OK) {
    return sqlite::Error(impl->db, path);
  }
  LIFT_RETURN_IF_ERROR(impl->Configure(sync));
  LIFT_RETURN_IF_ERROR(MigrateLedger(impl->db));
  impl->PrepareDecisions();
  LIFT_RETURN_IF_ERROR(impl->BeginEpoch());
  LIFT_RETURN_IF_ERROR(impl->OpenReader());
  impl->Prepare();
  return std::unique_ptr<Ledger>(new Ledger(std::move(impl)));
}

Ledger::Ledger(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Ledger::~Ledger() {
  Statement end(impl_->db, "UPDATE epochs SET ended_us = ? WHERE epoch = ?");
  end.Bind(NowMicros()).Bind(impl_->epoch).Run().IgnoreError();
}

int64_t Ledger::epoch() const { return impl_->epoch; }

int64_t Ledger::began_us() const { return impl_->began_us; }

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
                             .Bind(LedgerWhole(line.weight_byte_us))
                             .Bind(LedgerRest(line.weight_byte_us))
                             .Bind(LedgerWhole(line.kv_byte_us))
                             .Bind(LedgerRest(line.kv_byte_us))
                             .Run());
  }
  return r.decision ? PutDecision(r) : absl::OkStatus();
}

absl::Status Ledger::Write(std::span<const LedgerRecord> records,
                           std::span<const LedgerResidency> residency) {
  const std::lock_guard lock(impl_->mutex);
  return impl_->Transact([&]() -> absl::Status {
    for (const LedgerRecord& record : records) LIFT_RETURN_IF_ERROR(impl_->Put(record));
    for (const LedgerResidency& r : residency) {
      LIFT_RETURN_IF_ERROR(impl_->put_residency->Bind(impl_->epoch)
                               .Bind(r.hour)
                               .Bind(LedgerWhole(r.byte_us))
                               .Bind(LedgerRest(r.byte_us))
                               .Run());
    }
    return absl::OkStatus();
  });
}

namespace {

// Whole requests only: one with a line after the cut (?1) stays. Idleness and overhead of epochs
// before this one (?2) follow the same rule.
constexpr const char* kOld =
    "FROM requests r WHERE (state > 0 OR epoch < ?2) AND NOT EXISTS (SELECT 1 FROM lines l WHERE "
    "l.epoch = r.epoch AND l.sequence = r.sequence AND l.hour >= ?1)";

struct Day {
  ByteMicros weight = 0, kv = 0;
  int64_t requests = 0, prompt = 0, generated = 0;
};
using Days = std::map<std::tuple<int64_t, std::string, std::string, double>, Day>;

absl::Status SumOld(sqlite3* db, int64_t before, int64_t epoch, Days& days) {
  Statement lines(db, absl::StrCat("SELECT l.hour, r.tenant, l.variant, l.lambda, l.weight_s, "
                                   "l.weight_us, l.kv_s, l.kv_us, l.sequence > 0 AND r.state = 1 "
                                   "AND l.variant = r.variant AND l.hour = (SELECT MIN(hour) FROM "
                                   "lines f WHERE f.epoch = l.epoch AND f.sequence = l.sequence "
                                   "AND f.variant = l.variant), r.prompt_tokens, "
                                   "r.generated_tokens FROM lines l JOIN (SELECT * ",
                                   kOld, ") r USING (epoch, sequence)")
                          .c_str());
  lines.Bind(before).Bind(epoch);
  for (;;) {
    LIFT_ASSIGN_OR_RETURN(const bool row, lines.Step());
    if (!row) return absl::OkStatus();
    Day& day = days[{lines.Int(0) / kLedgerDay * kLedgerDay, lines.Text(1), lines.Text(2),
                     lines.Double(3)}];
    day.weight += LedgerJoined(lines.Int(4), lines.Int(5));
    day.kv += LedgerJoined(lines.Int(6), lines.Int(7));
    if (lines.Int(8) == 0) continue;  // a request counts once, where its last variant began
    ++day.requests;
    day.prompt += lines.Int(9), day.generated += lines.Int(10);
  }
}

}  // namespace

absl::Status Ledger::Impl::Fold(int64_t before, int64_t& folded) {
  Days days;
  LIFT_RETURN_IF_ERROR(SumOld(db, before, epoch, days));
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
      day.weight += LedgerJoined(old.Int(0), old.Int(1));
      day.kv += LedgerJoined(old.Int(2), old.Int(3));
    }
    old.Reset();
    put.Bind(at).Bind(tenant).Bind(variant).Bind(lambda).Bind(LedgerWhole(day.weight));
    put.Bind(LedgerRest(day.weight))
        .Bind(LedgerWhole(day.kv))
        .Bind(LedgerRest(day.kv))
        .Bind(day.requests);
    LIFT_RETURN_IF_ERROR(put.Bind(day.prompt).Bind(day.generated).Run());
  }
  return DropFolded(before, folded);
}

absl::Status Ledger::Impl::DropFolded(int64_t before, int64_t& folded) {
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
  LIFT_RETURN_IF_ERROR(
      impl_->Transact([&] { return impl_->Fold(before / kLedgerDay * kLedgerDay, folded); }));
  return folded;
}

}  // namespace lift
