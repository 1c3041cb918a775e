#include "server/verification.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <utility>

namespace lift {

BackgroundVerification::BackgroundVerification(std::shared_ptr<const Weights> weights,
                                               std::vector<int> variants,
                                               std::function<void(const absl::Status&)> on_damage)
    : thread_([this, weights = std::move(weights), variants = std::move(variants),
               on_damage = std::move(on_damage)] {
        ::setpriority(PRIO_PROCESS, static_cast<id_t>(::syscall(SYS_gettid)), 10);
        const absl::Status status = weights->Verify(variants, nullptr, &stop_);
        if (!status.ok() && !stop_) on_damage(status);
        done_ = true;
      }) {}

BackgroundVerification::~BackgroundVerification() {
  stop_ = true;
  thread_.join();
}

}  // namespace lift
