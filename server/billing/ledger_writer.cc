#include "server/billing/ledger_writer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace lift {
namespace {

constexpr int64_t kHour = 3600, kDay = 86400, kSecondUs = 1000000;
constexpr int64_t kIdleSequence = 0, kOverheadSequence = -1;
constexpr auto kRetry = std::chrono::milliseconds(500);

// Byte-seconds; exactly zero for equals.
double Difference(ByteMicros a, ByteMicros b) {
  return a >= b ? static_cast<double>(a - b) * 1e-6 : static_cast<double>(b - a) * -1e-6;
}

double Seconds(std::chrono::steady_clock::duration d) {
  return std::chrono::duration<double>(d).count();
}

}  // namespace

LedgerWriter::LedgerWriter(Ledger& ledger, Options options)
    : ledger_(ledger), options_(std::move(options)) {
  for (const auto& [sequence, tenant] :
       {std::pair{kIdleSequence, kIdleTenant}, {kOverheadSequence, kOverheadTenant}}) {
    LedgerRecord& record = accounts_[sequence].record;
    record.sequence = sequence;
    record.tenant = record.request_id = tenant;
    record.started_us = Now();
  }
  thread_ = std::thread([this] { Run(); });
}

LedgerWriter::~LedgerWriter() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

int64_t LedgerWriter::Now() const {
  if (options_.now_us) return options_.now_us();
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

LedgerWriter::Account& LedgerWriter::AccountOf(int64_t sequence) {
  Account& account = accounts_[sequence];
  account.record.sequence = sequence;
  account.changed = true;
  return account;
}

LedgerLine& LedgerWriter::LineOf(Account& account, int64_t hour, const Charge& charge) {
  // Nearly always the last one.
  auto& lines = account.record.lines;
  if (!lines.empty() && lines.back().hour == hour && lines.back().variant == charge.variant) {
    account.line_changed.back() = true;
    return lines.back();
  }
  const auto [at, fresh] =
      account.index.try_emplace({hour, std::string(charge.variant)}, lines.size());
  if (fresh) lines.push_back({hour, std::string(charge.variant), charge.lambda, 0, 0});
  account.line_changed.resize(lines.size());
  account.line_changed[at->second] = true;
  return lines[at->second];
}

void LedgerWriter::Begin(const Request& request) {
  const std::lock_guard lock(mutex_);
  LedgerRecord& record = AccountOf(request.sequence).record;
  record.request_id = request.request_id;
  record.tenant = request.tenant;
  record.started_us = Now();
}

void LedgerWriter::Add(std::span<const Charge> charges, ByteMicros resident,
                       std::optional<ByteMicros> metered) {
  const int64_t hour = Now() / kSecondUs / kHour * kHour;
  const std::lock_guard lock(mutex_);
  for (const Charge& charge : charges) {
    LedgerLine& line = LineOf(AccountOf(charge.sequence), hour, charge);
    (charge.kv ? line.kv_byte_us : line.weight_byte_us) += charge.byte_us;
  }
  Hour& total = residency_[hour];
  total.byte_us += resident;
  total.changed = true;
  charged_ += resident;
  metered_ = metered.value_or(charged_);
}

void LedgerWriter::Decide(int64_t sequence, RoutingDecision decision) {
  decision.time_us = Now();
  const std::lock_guard lock(mutex_);
  Account& account = AccountOf(sequence);
  account.decision_changed = true;
  decision.request_id = account.record.request_id;
  decision.tenant = account.record.tenant;
  account.record.decision = std::move(decision);
}

void LedgerWriter::Finish(int64_t sequence, End end) {
  const std::lock_guard lock(mutex_);
  LedgerRecord& record = AccountOf(sequence).record;
  record.state = LedgerState::kFinished;
  record.finished_us = Now();
  record.variant = std::move(end.variant);
  record.code = std::move(end.code);
  record.finish_reason = std::move(end.finish_reason);
  record.prompt_tokens = end.prompt_tokens;
  record.generated_tokens = end.generated_tokens;
  record.cached_tokens = end.cached_tokens;
  if (record.decision) {
    record.decision->outcome = record.code;
    record.decision->generated_tokens = end.generated_tokens;
    if (end.served_lambda) record.decision->served_lambda = *end.served_lambda;
  }
  ++stats_.unwritten;
}

void LedgerWriter::WhenCommitted(std::function<void()> told) {
  {
    const std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(told));
  }
  wake_.notify_one();
}

LedgerWriter::Stats LedgerWriter::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

// Everything that changed, at one moment between two charges.
struct LedgerWriter::Picture {
  std::vector<LedgerRecord> records;
  std::vector<LedgerResidency> residency;
  std::vector<std::function<void()>> told;
  double meter_drift = 0;  // byte-seconds
};

LedgerWriter::Picture LedgerWriter::TakePicture() {
  Picture picture;
  const std::lock_guard lock(mutex_);
  for (auto& [sequence, account] : accounts_) {
    if (!std::exchange(account.changed, false)) continue;
    LedgerRecord record = account.record;
    size_t i = 0;  // only what changed is written again
    std::erase_if(record.lines, [&, &changed = account.line_changed](const LedgerLine&) {
      return !changed[i++];
    });
    account.line_changed.assign(account.record.lines.size(), false);
    if (!std::exchange(account.decision_changed, false) && record.state == LedgerState::kRunning) {
      record.decision.reset();
    }
    picture.records.push_back(std::move(record));
  }
  for (auto& [hour, total] : residency_) {
    if (std::exchange(total.changed, false)) picture.residency.push_back({hour, total.byte_us});
  }
  picture.told = std::exchange(waiting_, {});
  picture.meter_drift = Difference(metered_, charged_);
  return picture;
}

// What became of it.
void LedgerWriter::Note(const Picture& picture, const absl::Status& status, double seconds) {
  const std::lock_guard lock(mutex_);
  ++(status.ok() ? stats_.commits : stats_.failures);
  stats_.commit_seconds += seconds;
  if (status.ok()) stats_.last_commit_us = Now();
  for (const LedgerRecord& record : picture.records) {
    if (!status.ok()) {
      Account& account = accounts_[record.sequence];  // all of it, with the next attempt
      account.changed = true;
      account.line_changed.assign(account.record.lines.size(), true);
      account.decision_changed = true;
    } else if (record.state == LedgerState::kFinished) {
      accounts_.erase(record.sequence);
      --stats_.unwritten;
    }
  }
  for (const LedgerResidency& r : picture.residency) {
    if (!status.ok()) residency_[r.hour].changed = true;
  }
}

bool LedgerWriter::CommitOnce() {
  const Picture picture = TakePicture();
  const auto start = std::chrono::steady_clock::now();
  const absl::Status status = ledger_.Write(picture.records, picture.residency);
  Note(picture, status, Seconds(std::chrono::steady_clock::now() - start));
  const bool was_healthy = healthy_.exchange(status.ok());
  if (options_.report && was_healthy != status.ok()) {
    options_.report(
        status.ok()
            ? std::string("the ledger is written again; nothing was lost")
            : absl::StrCat(status.message(), "; answers go on and are written when that is over"));
  }
  if (status.ok()) {
    for (const LedgerResidency& r : picture.residency) committed_residency_[r.hour] = r.byte_us;
    meter_drift_ = picture.meter_drift;
  }
  for (const auto& f : picture.told) f();
  return status.ok();
}

void LedgerWriter::CheckDrift() {
  if (committed_residency_.empty()) return;
  if (Now() < next_check_us_ && committed_residency_.size() == 1) return;
  next_check_us_ = Now() + std::chrono::microseconds(options_.drift_check).count();
  double drift = 0, last = 0;
  for (const auto& [hour, byte_us] : committed_residency_) {
    const auto audit = ledger_.Audit(hour);
    if (!audit.ok()) return;
    last = Difference(byte_us, audit->lines);
    drift += last;
  }
  past_drift_ += drift - last;
  while (committed_residency_.size() > 1) committed_residency_.erase(committed_residency_.begin());
  const std::lock_guard lock(mutex_);
  stats_.drift_byte_seconds = past_drift_ + last + meter_drift_;
}

void LedgerWriter::Retain() {
  if (options_.retention_days == 0 || Now() < next_retain_us_) return;
  next_retain_us_ = Now() + kHour * kSecondUs;
  ledger_.RollUp(Now() / kSecondUs - options_.retention_days * kDay).status().IgnoreError();
}

void LedgerWriter::Run() {
  bool stopping = false;
  auto next = std::chrono::steady_clock::now();
  while (!stopping) {
    {
      std::unique_lock lock(mutex_);
      wake_.wait_until(lock, next, [&] { return stop_ || !waiting_.empty(); });
      stopping = stop_;
    }
    next = std::chrono::steady_clock::now() + PictureInterval(options_.checkpoint);
    if (!CommitOnce() && !stopping) {
      std::unique_lock lock(mutex_);
      wake_.wait_for(lock, kRetry, [&] { return stop_; });
    }
    if (stopping) break;
    CheckDrift();
    Retain();
  }
}

}  // namespace lift
