// What callers and the engine thread share: the live requests, those not yet taken over, and the
// counts.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "server/engine/live_request.h"

namespace lift {

// Thread-safe. No lock is held while a listener runs.
class RequestRegistry {
 public:
  RequestRegistry(int64_t max_waiting, int64_t blocks_total, uint64_t first_sequence);

  // ---- callers ----
  // Gives it an id if it has none. UNAVAILABLE (DRAINING: ..., QUEUE_FULL: ...), ALREADY_EXISTS.
  absl::Status Add(const std::shared_ptr<RequestGroup>& request);
  bool Cancel(const std::string& request_id);
  // Refuses new work; true if the last OnFinished returned before the timeout.
  bool Drain(std::chrono::milliseconds timeout);
  void Stop();
  // Runs `task` on the engine thread between two steps; true: the engine is stopping.
  void Post(std::function<void(bool stopping)> task);
  // Until every OnFinished has returned; after the engine thread has ended.
  void WaitForRetired();
  EngineLoad load() const;

  // ---- engine thread ----
  struct Mail {
    std::vector<std::shared_ptr<RequestGroup>> arrived;
    std::vector<std::function<void(bool)>> tasks;
    bool stopping = false;
  };
  // New requests and tasks. If `idle`, sleeps until there is one, Stop is called or `patience` is
  // over.
  Mail Take(bool idle, std::chrono::milliseconds patience);
  void Publish(int64_t running, int64_t blocks_used, int64_t blocks_cached);
  // One of its sequences is done.
  void Close(bool was_running, int64_t blocks_used, int64_t blocks_cached);
  // No longer live: its id is free and Cancel finds it no more. True if Cancel found it before.
  // Call Retired() after OnFinished.
  bool Retire(const RequestGroup& request);
  void Retired();

 private:
  int64_t WaitingLocked() const { return sequences_ - running_; }

  const int64_t max_waiting_, blocks_total_;
  mutable std::mutex mutex_;
  std::condition_variable work_, idle_;
  // Guarded by mutex_.
  std::unordered_map<std::string, std::shared_ptr<RequestGroup>> live_;
  std::vector<std::shared_ptr<RequestGroup>> inbox_;
  std::vector<std::function<void(bool)>> tasks_;
  bool closed_ = false;  // the last Take has been: tasks are answered at once
  uint64_t arrivals_;
  int64_t sequences_ = 0, running_ = 0, blocks_used_ = 0, blocks_cached_ = 0, finishing_ = 0;
  bool draining_ = false, stopping_ = false;
};

}  // namespace lift
