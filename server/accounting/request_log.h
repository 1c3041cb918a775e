// One JSON line for every request that ended or was refused.
#pragma once

#include <condition_variable>
#include <cstdio>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "server/engine/engine.h"
#include "server/model_info.h"

namespace lift {

// Writes on a thread of its own; the engine never waits for a pipe. Past `kMostWaiting` lines,
// newer ones are dropped and counted in the next line ("dropped"). Prompts and answers are never in
// it.
class RequestLog {
 public:
  static constexpr size_t kMostWaiting = 100000;

  // "-" = standard error. INVALID_ARGUMENT if the file cannot be appended to.
  static absl::StatusOr<std::unique_ptr<RequestLog>> Open(const std::string& path);
  ~RequestLog();  // writes what is left

 private:
  friend class ModelRequestLog;
  explicit RequestLog(std::FILE* file);
  void Push(std::string line);
  void Run();

  std::FILE* const file_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::string> lines_;
  uint64_t dropped_ = 0;
  bool stopping_ = false;
  std::thread thread_;
};

// Observes one model's engine. Borrows both.
class ModelRequestLog : public EngineObserver {
 public:
  ModelRequestLog(RequestLog& log, const ModelInfo& model) : log_(log), model_(model) {}
  void OnRejected(const EngineRequest& request, const absl::Status& status) override;
  void OnFinished(const EngineRequest& request, const FinishedEvent& event) override;

 private:
  RequestLog& log_;
  const ModelInfo& model_;
};

}  // namespace lift
