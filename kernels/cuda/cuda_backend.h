// The backend on one NVIDIA GPU. No CUDA headers here.
#pragma once

#include <memory>
#include <string>

#include "kernels/backend.h"
#include "kernels/base/status.h"

namespace lift {

// Compute capability 8.0 or later. UNAVAILABLE, with one sentence that says why, where there is no
// such device or no driver. One step at a time.
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend();

}  // namespace lift
