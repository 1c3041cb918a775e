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
class RequestLog : public EngineObserver {
 public:
  static constexpr size_t kMostWaiting = 100000;

  // "-" = standard error. INVALID_ARGUMENT if the file cannot be appended to. Borrows the model.
  static absl::StatusOr<std::unique_ptr<RequestLog>> Open(const std::string& path,
                                                          const ModelInfo& model);
  ~RequestLog() override;  // writes what is left

  void OnRejected(const EngineRequest& request, const absl::Status& status) override;
  void OnFinished(const EngineRequest& request, const FinishedEvent& event) override;

 private:
  RequestLog(std::FILE* file, const ModelInfo& model);
  void Push(std::string line);
  void Run();

  std::FILE* const file_;
  const ModelInfo& model_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::string> lines_;
  uint64_t dropped_ = 0;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace lift
