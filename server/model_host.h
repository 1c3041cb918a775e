// The models of a server: the one that new calls go to, and those that were swapped and still have
// calls.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "server/metrics/scrape.h"
#include "server/rpc/rpc_server.h"
#include "server/rpc/worker.h"
#include "server/running_model.h"

namespace lift {

// Where a swap finds `file`: beside `model`, the path the server was started with. INVALID_ARGUMENT
// for anything but the plain name of a file or folder.
absl::StatusOr<std::string> SwapPath(const std::string& model, const std::string& file);

// Thread-safe but for Load and Serve, which come first and once each.
class ModelHost {
 public:
  // Both outlive it.
  ModelHost(const ServerConfig& config, RunningModel::Shared shared)
      : config_(config), shared_(std::move(shared)) {}
  ~ModelHost();  // after the RPC server has stopped

  // The configured model; SharedServices::swap_model refuses until Serve. Errors:
  // LoadServingModel's.
  absl::Status Load();
  rpc::ModelSlot& slot() { return *slot_; }
  // Of Load.
  RunningModel& first() { return *first_; }
  // Starts the governor and lets models be swapped. Errors: RunningModel::StartGovernor's. Borrows
  // the server until Close.
  absl::Status Serve(rpc::RpcServer& server);
  // Nothing swaps, loads or drops weights from here on.
  void Close();

  std::vector<ModelLoad> loads();
  EngineLoad load() const { return slot_->current()->engine.load(); }

 private:
  using Done = std::function<void(absl::Status)>;
  rpc::ServicesPtr Own(std::unique_ptr<RunningModel> model);
  void Swap(const std::string& file, Done done);
  absl::Status TrySwap(const std::string& file);
  absl::Status CheckMemory(const std::string& path) const;
  absl::Status Govern(RunningModel& next);

  const ServerConfig& config_;
  const RunningModel::Shared shared_;
  std::atomic<bool> ending_{false};
  rpc::Worker leaving_;  // destroys models: an engine cannot be destroyed on its own thread
  std::atomic<bool> busy_{true};  // a swap is under way, or Serve has not been yet
  uint64_t generation_ = 0;       // of the swapping thread, and of Load before it

  std::mutex mutex_;
  // Guarded by mutex_.
  std::vector<std::weak_ptr<RunningModel>> models_;  // oldest first
  RunningModel* governed_ = nullptr;                 // current and alive as long as slot_ has it
  bool closed_ = false;

  rpc::RpcServer* server_ = nullptr;
  RunningModel* first_ = nullptr;
  std::unique_ptr<rpc::ModelSlot> slot_;
  std::unique_ptr<rpc::Worker> swapping_;  // loads models
};

}  // namespace lift
