#include "server/engine/registry.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace lift {

RequestRegistry::RequestRegistry(int64_t max_waiting, int64_t blocks_total, uint64_t first_sequence)
    : max_waiting_(max_waiting), blocks_total_(blocks_total), arrivals_(first_sequence - 1) {}

absl::Status RequestRegistry::Add(const std::shared_ptr<RequestGroup>& request) {
  const std::lock_guard lock(mutex_);
  if (draining_ || stopping_) {
    return absl::UnavailableError("DRAINING: the server is shutting down; retry on another one");
  }
  std::string& id = request->request.request_id;
  if (live_.contains(id)) {
    return absl::AlreadyExistsError(
        absl::StrCat("request_id '", id, "' belongs to a live request; choose another"));
  }
  if (WaitingLocked() >= max_waiting_) {
    return absl::UnavailableError(
        absl::StrCat("QUEUE_FULL: ", WaitingLocked(), " requests are waiting; retry later"));
  }
  request->arrival = ++arrivals_;
  request->request.sequence = request->arrival;
  for (uint64_t n = arrivals_; id.empty() || live_.contains(id); ++n) id = absl::StrCat("gen-", n);
  live_.emplace(id, request);
  inbox_.push_back(request);
  sequences_ += static_cast<int64_t>(request->choices.size());
  work_.notify_one();
  return absl::OkStatus();
}

bool RequestRegistry::Cancel(const std::string& request_id) {
  const std::lock_guard lock(mutex_);
  const auto it = live_.find(request_id);
  if (it == live_.end()) return false;
  it->second->cancelled = true;
  return true;
}

bool RequestRegistry::Drain(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  draining_ = true;
  return idle_.wait_for(lock, timeout, [&] { return live_.empty() && finishing_ == 0; });
}

void RequestRegistry::Post(std::function<void(bool)> task) {
  {
    const std::lock_guard lock(mutex_);
    if (!closed_) {
      tasks_.push_back(std::move(task));
      work_.notify_one();
      return;
    }
  }
  task(true);
}

void RequestRegistry::WaitForRetired() {
  std::unique_lock lock(mutex_);
  idle_.wait(lock, [&] { return finishing_ == 0; });
}

void RequestRegistry::Stop() {
  const std::lock_guard lock(mutex_);
  stopping_ = true;
  work_.notify_one();
}

EngineLoad RequestRegistry::load() const {
  const std::lock_guard lock(mutex_);
  return {.running = running_,
          .waiting = WaitingLocked(),
          .blocks_used = blocks_used_,
          .blocks_total = blocks_total_,
          .blocks_cached = blocks_cached_,
          .draining = draining_ || stopping_};
}

RequestRegistry::Mail RequestRegistry::Take(bool idle, std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  if (idle) {
    work_.wait_for(lock, patience, [&] { return !inbox_.empty() || !tasks_.empty() || stopping_; });
  }
  closed_ = stopping_;
  return {.arrived = std::exchange(inbox_, {}),
          .tasks = std::exchange(tasks_, {}),
          .stopping = stopping_};
}

void RequestRegistry::Publish(int64_t running, int64_t blocks_used, int64_t blocks_cached) {
  const std::lock_guard lock(mutex_);
  running_ = running;
  blocks_used_ = blocks_used;
  blocks_cached_ = blocks_cached;
}

void RequestRegistry::Close(bool was_running, int64_t blocks_used, int64_t blocks_cached) {
  const std::lock_guard lock(mutex_);
  --sequences_;
  if (was_running) --running_;
  blocks_used_ = blocks_used;
  blocks_cached_ = blocks_cached;
}

bool RequestRegistry::Retire(const RequestGroup& request) {
  const std::lock_guard lock(mutex_);
  live_.erase(request.request.request_id);
  ++finishing_;
  return request.cancelled;
}

void RequestRegistry::Retired() {
  const std::lock_guard lock(mutex_);
  --finishing_;
  if (finishing_ == 0) idle_.notify_all();
}

}  // namespace lift
