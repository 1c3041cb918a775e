#include "server/watchdog.h"

#include <algorithm>
#include <utility>

namespace lift {
namespace {

int64_t SteadyNanos() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

StepStats WatchedModel::Step(std::span<const SequenceChunk> chunks, std::vector<float>& logits) {
  started_ns_ = SteadyNanos();
  const StepStats stats = model_.Step(chunks, logits);
  started_ns_ = 0;
  return stats;
}

double WatchedModel::seconds_in_step() const {
  const int64_t started = started_ns_;
  return started == 0 ? 0 : static_cast<double>(SteadyNanos() - started) * 1e-9;
}

Watchdog::Watchdog(const WatchedModel& model, double limit_seconds,
                   std::function<void(bool)> changed)
    : model_(model), limit_seconds_(limit_seconds), changed_(std::move(changed)) {
  if (limit_seconds_ > 0) thread_ = std::thread([this] { Watch(); });
}

Watchdog::~Watchdog() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  stop_.notify_all();
  if (thread_.joinable()) thread_.join();
  if (stuck_) changed_(false);  // the step came back since the last look, or nobody waits for it
}

void Watchdog::Watch() {
  const std::chrono::duration<double> interval(std::clamp(limit_seconds_ / 4, 0.005, 1.0));
  std::unique_lock lock(mutex_);
  while (!stop_.wait_for(lock, interval, [this] { return stopping_; })) {
    const bool now = model_.seconds_in_step() > limit_seconds_;
    if (now == stuck_.exchange(now)) continue;
    lock.unlock();
    changed_(now);
    lock.lock();
  }
}

}  // namespace lift
