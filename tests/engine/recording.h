// A listener and an observer that remember what they were told, for the engine's tests.
#pragma once

#include <gtest/gtest.h>

#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "server/billing/meter.h"
#include "server/engine/engine.h"

namespace lift {

class RecordingListener : public RequestListener {
 public:
  void OnStarted(const StartedEvent& event) override {
    const std::lock_guard lock(mutex_);
    EXPECT_FALSE(started_ || finished_);
    started_ = event;
  }
  void OnToken(const TokenEvent& event) override {
    if (on_token) on_token(event);
    const std::lock_guard lock(mutex_);
    EXPECT_TRUE(started_ && !finished_);
    tokens_.push_back(event);
    changed_.notify_all();
  }
  void OnFinished(const FinishedEvent& event) override {
    if (on_finished) on_finished();
    const std::lock_guard lock(mutex_);
    EXPECT_FALSE(finished_) << "finished twice";
    finished_ = event;
    changed_.notify_all();
  }

  // Blocks until the request is over.
  FinishedEvent Wait() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, std::chrono::seconds(30), [&] { return finished_.has_value(); })) {
      ADD_FAILURE() << "no OnFinished within 30 s";
      return {};
    }
    return *finished_;
  }
  bool WaitForTokens(size_t count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(30),
                             [&] { return tokens_.size() >= count || finished_; });
  }
  bool finished() {
    const std::lock_guard lock(mutex_);
    return finished_.has_value();
  }
  std::optional<StartedEvent> started() {
    const std::lock_guard lock(mutex_);
    return started_;
  }
  std::vector<TokenEvent> tokens() {
    const std::lock_guard lock(mutex_);
    return tokens_;
  }
  std::vector<int32_t> ids() {
    std::vector<int32_t> ids;
    for (const TokenEvent& token : tokens()) ids.push_back(token.id);
    return ids;
  }
  // All text of the stream, the tail included.
  std::string text() {
    std::string text;
    for (const TokenEvent& token : tokens()) text += token.text;
    const std::lock_guard lock(mutex_);
    return finished_ ? text + finished_->tail_text : text;
  }

  // Set before submission; called on the engine thread.
  std::function<void(const TokenEvent&)> on_token;
  std::function<void()> on_finished;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<StartedEvent> started_;
  std::optional<FinishedEvent> finished_;
  std::vector<TokenEvent> tokens_;
};

// Sums per tenant; read only after the engine is gone, apart from `rejected`.
class RecordingObserver : public EngineObserver {
 public:
  void OnAdmitted(const EngineRequest&) override { ++admitted; }
  void OnRejected(const EngineRequest&, const absl::Status&) override { ++rejected; }
  void OnDecision(const router::Decision&, int, double seconds) override {
    EXPECT_GE(seconds, 0);
    ++decisions;
  }
  void OnFirstToken(int, double ttft) override {
    EXPECT_GE(ttft, 0);
    ++first_tokens;
  }
  void OnInterToken(int, double) override { ++later_tokens; }
  void OnFinished(const EngineRequest& request, const FinishedEvent& event) override {
    ++finished;
    used[request.tenant] += event.usage.weight_byte_us + event.usage.kv_byte_us;
    generated += event.usage.generated_tokens;
  }
  void OnCharges(std::span<const Charge> charges, ByteMicros resident_byte_us) override {
    ByteMicros sum = 0;
    for (const Charge& charge : charges) {
      charged[charge.tenant] += charge.byte_us;
      sum += charge.byte_us;
      const bool nobody = charge.tenant == kIdleTenant || charge.tenant == kOverheadTenant;
      EXPECT_EQ(charge.variant == -1, nobody);
    }
    EXPECT_TRUE(sum == resident_byte_us);
    intervals.push_back(sum);
  }

  int admitted = 0, decisions = 0, first_tokens = 0, later_tokens = 0, finished = 0;
  std::atomic<int> rejected{0};
  int64_t generated = 0;
  std::map<std::string, ByteMicros> used, charged;
  std::vector<ByteMicros> intervals;
};

}  // namespace lift
