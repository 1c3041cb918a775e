// Notices a model step that does not come back.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "server/model/step_model.h"

namespace lift {

// Passes everything on and remembers when the step under way began. Borrows the model.
class WatchedModel : public StepModel {
 public:
  explicit WatchedModel(StepModel& model) : model_(model) {}
  int64_t vocab_size() const override { return model_.vocab_size(); }
  int64_t max_context() const override { return model_.max_context(); }
  std::span<const LiftedVariant> variants() const override { return model_.variants(); }
  int64_t block_tokens() const override { return model_.block_tokens(); }
  int64_t num_blocks() const override { return model_.num_blocks(); }
  int64_t bytes_per_block() const override { return model_.bytes_per_block(); }
  StepStats Step(std::span<const SequenceChunk> chunks, std::vector<float>& logits) override;
  bool reusable_state() const override { return model_.reusable_state(); }
  int64_t state_window() const override { return model_.state_window(); }
  void CopyState(int32_t from, int32_t to) override { model_.CopyState(from, to); }
  bool swappable_state() const override { return model_.swappable_state(); }
  void SaveBlock(int32_t block, std::span<std::byte> out) override { model_.SaveBlock(block, out); }
  void RestoreBlock(int32_t block, std::span<const std::byte> in) override {
    model_.RestoreBlock(block, in);
  }
  void Retain(std::span<const int> variants) override { model_.Retain(variants); }
  // Of the step under way; 0 if there is none. Thread-safe.
  double seconds_in_step() const;

 private:
  StepModel& model_;
  std::atomic<int64_t> started_ns_{0};  // steady clock; 0 = no step
};

// Calls `changed(true)` when a step has taken longer than `limit_seconds`, `changed(false)` when it
// has come back after all, or when nobody watches it any more; on its own thread, or the
// destructor's.
class Watchdog {
 public:
  Watchdog(const WatchedModel& model, double limit_seconds, std::function<void(bool)> changed);
  ~Watchdog();
  bool stuck() const { return stuck_; }

 private:
  void Watch();

  const WatchedModel& model_;
  const double limit_seconds_;
  const std::function<void(bool)> changed_;
  std::atomic<bool> stuck_{false};
  std::mutex mutex_;
  std::condition_variable stop_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace lift
