// Which device computes: the CPU, or a GPU that is there and computes what the CPU does.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "kernels/backend.h"
#include "kernels/base/thread_pool.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/tuning.h"

namespace lift {

// The values of --device: "auto", "cpu", "cuda".
inline constexpr char kDeviceChoices[] = "auto, cpu or cuda";
bool IsDeviceChoice(std::string_view name);

struct DeviceChoice {
  std::unique_ptr<Backend> backend;
  std::string note;  // why "auto" did not take a GPU that this program could use; else empty
};

// "auto" takes a GPU if there is one and it passes CheckBackend, else the CPU. "cuda" without one:
// UNAVAILABLE, or FAILED_PRECONDITION if this program has no CUDA or the GPU computes something
// else. `pool` must outlive the backend.
absl::StatusOr<DeviceChoice> MakeDevice(std::string_view name, ThreadPool& pool,
                                        CpuIsa isa = CpuIsa::kAuto);
absl::StatusOr<DeviceChoice> MakeDevice(std::string_view name, ThreadPool& pool, CpuIsa isa,
                                        const CpuTuning& tuning);

// Runs small cases of a norm, a lifted layer and attention on the backend and on the CPU: INTERNAL,
// naming the op, where they differ by more than rounding. Milliseconds.
absl::Status CheckBackend(Backend& backend);

}  // namespace lift
