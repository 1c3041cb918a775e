// Between the engine, which must never wait, and the ledger, which waits for a disk.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "server/billing/ledger.h"

namespace lift {

// What a crash loses began with the last picture that was committed whole. Pictures are taken so
// often that the next one is safe before the first is `checkpoint` old: the rest of it is for
// charges that come late (see ChargeInterval) and for the disk.
constexpr std::chrono::milliseconds PictureInterval(std::chrono::milliseconds checkpoint) {
  return std::max(checkpoint / 2, std::chrono::milliseconds(1));
}
// How often whoever charges must do so at least.
constexpr std::chrono::milliseconds ChargeInterval(std::chrono::milliseconds checkpoint) {
  return std::clamp(checkpoint / 4, std::chrono::milliseconds(1), std::chrono::milliseconds(1000));
}

// Keeps every live request's account in memory and commits them from a thread of its own: all of
// them every PictureInterval, counted from picture to picture whatever the disk takes, and at once
// whenever a request ends. Every commit is a whole
// picture taken between two charges, so in every state the file can be found in, also after
// kill -9, its lines sum to what was resident, exactly. Thread-safe.
class LedgerWriter {
 public:
  struct Options {
    // At most so much memory x time is lost by a crash, see PictureInterval.
    std::chrono::milliseconds checkpoint{1000};
    int64_t retention_days = 0;  // rows of requests older than this become daily sums; 0 = never
    std::chrono::seconds drift_check{60};  // how often the file is summed up again
    std::function<int64_t()> now_us = {};  // Unix time; null: the system's
    // One sentence when writing begins to fail, and when it works again; on the writer's thread.
    std::function<void(const std::string&)> report = {};
  };
  // `ledger` must outlive the writer and is written by it alone.
  LedgerWriter(Ledger& ledger, Options options);
  ~LedgerWriter();  // commits what is left

  struct Request {
    int64_t sequence = 0;
    std::string request_id, tenant;
  };
  struct Charge {
    int64_t sequence = 0;  // 0: __idle__, -1: __overhead__
    std::string_view variant;
    double lambda = 0;
    bool kv = false;
    ByteMicros byte_us = 0;
  };
  struct End {
    std::string variant = {}, code = {}, finish_reason = {};
    int64_t prompt_tokens = 0, generated_tokens = 0, cached_tokens = 0;
    // Mean over the answer's tokens; absent where there are none.
    std::optional<double> served_lambda = {};
  };
  void Begin(const Request& request);
  // All of one interval; they sum to `resident`. `metered` is what an account kept apart from the
  // ledger (the metrics') has reached with this interval; drift is measured against it.
  void Add(std::span<const Charge> charges, ByteMicros resident,
           std::optional<ByteMicros> metered = {});
  // What the router decided for a request that began. It joins the log with the request's end.
  void Decide(int64_t sequence, RoutingDecision decision);
  void Finish(int64_t sequence, End end);
  // Runs `told` once everything that was reported before this call is committed. If the ledger
  // cannot be written it runs after the first failed attempt: answers are not held back by a full
  // disk, but healthy() turns false until all is written.
  void WhenCommitted(std::function<void()> told);

  bool healthy() const { return healthy_; }
  struct Stats {
    uint64_t commits = 0, failures = 0;
    double commit_seconds = 0;   // sum
    int64_t unwritten = 0;       // ended requests that are not in the file
    int64_t last_commit_us = 0;  // Unix
    // What was metered since this epoch began minus what the file holds of it, byte-seconds.
    // Looked up every `drift_check` and at an hour's end; of hours past what it was then. Zero
    // unless one of the two lost or gained something.
    double drift_byte_seconds = 0;
  };
  Stats stats() const;

 private:
  struct Account {
    LedgerRecord record;
    std::map<std::pair<int64_t, std::string>, size_t> index;  // (hour, variant) -> line
    std::vector<bool> line_changed;                           // [record.lines]
    bool changed = false, decision_changed = false;
  };
  struct Hour {
    ByteMicros byte_us = 0;
    bool changed = false;
  };
  Account& AccountOf(int64_t sequence);
  LedgerLine& LineOf(Account& account, int64_t hour, const Charge& charge);
  void Run();
  struct Picture;
  Picture TakePicture();
  void Note(const Picture& picture, const absl::Status& status, double seconds);
  bool CommitOnce();
  void CheckDrift();
  void Retain();
  int64_t Now() const;

  Ledger& ledger_;
  const Options options_;
  std::atomic<bool> healthy_{true};

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  // Guarded by mutex_.
  std::map<int64_t, Account> accounts_;  // live and ended ones that are not committed
  std::map<int64_t, Hour> residency_;    // of this epoch
  std::vector<std::function<void()>> waiting_;
  bool stop_ = false;
  Stats stats_;
  ByteMicros charged_ = 0, metered_ = 0;  // since the beginning

  // Of the writer's thread.
  std::map<int64_t, ByteMicros> committed_residency_;
  double past_drift_ = 0, meter_drift_ = 0;  // of hours that are over; metered minus charged
  int64_t next_check_us_ = 0, next_retain_us_ = 0;
  std::thread thread_;
};

}  // namespace lift
