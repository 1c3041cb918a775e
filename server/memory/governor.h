// Keeps the weights within what the time of day and the machine allow.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "server/engine/engine.h"
#include "server/memory/pressure.h"
#include "server/memory/schedule.h"
#include "server/model_info.h"

namespace lift {

class MemoryGovernor {
 public:
  struct Options {
    MemorySchedule schedule{};
    std::string pressure_path{};  // see ReadPressure; empty = not looked at
    PressurePolicy::Options pressure{};
    std::chrono::milliseconds poll{1000};
    std::function<int()> minute_of_day{};              // null: the system's local time
    std::function<void(const std::string&)> report{};  // a sentence for the log; its own thread
    std::function<void()> changed{};                   // what is resident changed; its own thread
  };
  // Borrows all but the options. Ends before the engine does.
  MemoryGovernor(Engine& engine, const ModelInfo& model, Options options);
  ~MemoryGovernor();

  // Changes made, and refused because of a stream's floor, so far. Any thread.
  int64_t changes() const { return changes_; }
  int64_t refusals() const { return refusals_; }

 private:
  void Run();
  int Wish();
  void Pursue(int count);

  Engine& engine_;
  const ModelInfo& model_;
  const Options options_;
  PressurePolicy policy_;
  std::atomic<int64_t> changes_{0}, refusals_{0};
  // Of its thread.
  int wish_ = 0;          // the latest, reached or not
  bool pending_ = false;  // it is not reached yet
  std::string last_trouble_;

  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace lift
