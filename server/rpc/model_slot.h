// The model that new calls go to.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <vector>

#include "server/rpc/service_context.h"

namespace lift::rpc {

// Thread-safe. A call takes current() once and keeps it to its end; so a model that was replaced
// leaves with the last of its calls.
class ModelSlot {
 public:
  // Both outlive what borrows them; `first` may be replaced but is never null.
  ModelSlot(SharedServices& shared, ServicesPtr first)
      : shared_(shared), current_(std::move(first)) {}

  SharedServices& shared() const { return shared_; }
  ServicesPtr current() const {
    const std::lock_guard lock(mutex_);
    return current_;
  }
  // False, with nothing changed, after Drain has begun.
  bool Replace(ServicesPtr next);
  // Refuses new work and replacements; true if every engine, also of replaced models, was idle
  // before the timeout.
  bool Drain(std::chrono::milliseconds timeout);

 private:
  SharedServices& shared_;
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  ServicesPtr current_;
  std::vector<std::weak_ptr<const ServiceContext>> replaced_;
  bool closed_ = false;
};

}  // namespace lift::rpc
