// Checks the weights' checksums while the server already answers.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "server/model/weights.h"

namespace lift {

// Runs on a thread of low priority from construction on; destruction stops it.
class BackgroundVerification {
 public:
  // `on_damage` is called once, on that thread, with the first thing found wrong.
  BackgroundVerification(std::shared_ptr<const Weights> weights, std::vector<int> variants,
                         std::function<void(const absl::Status&)> on_damage);
  ~BackgroundVerification();
  BackgroundVerification(const BackgroundVerification&) = delete;
  BackgroundVerification& operator=(const BackgroundVerification&) = delete;
  bool done() const { return done_; }

 private:
  std::atomic<bool> stop_{false}, done_{false};
  std::thread thread_;
};

}  // namespace lift
