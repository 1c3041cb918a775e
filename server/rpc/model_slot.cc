#include "server/rpc/model_slot.h"

#include <algorithm>
#include <utility>

namespace lift::rpc {

bool ModelSlot::Replace(ServicesPtr next) {
  const std::lock_guard lock(mutex_);  // released after `next` has become the old one
  if (closed_) return false;
  std::erase_if(replaced_, [](const auto& old) { return old.expired(); });
  replaced_.push_back(current_);
  current_.swap(next);
  return true;
}

bool ModelSlot::Drain(std::chrono::milliseconds timeout) {
  const auto end = std::chrono::steady_clock::now() + timeout;
  std::vector<ServicesPtr> serving;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    serving.push_back(current_);
    for (const auto& old : replaced_) {
      if (ServicesPtr services = old.lock()) serving.push_back(std::move(services));
    }
  }
  bool idle = true;
  for (const ServicesPtr& services : serving) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        end - std::chrono::steady_clock::now());
    idle = services->engine.Drain(std::max(left, std::chrono::milliseconds(0))) && idle;
  }
  return idle;
}

}  // namespace lift::rpc
