#include "kernels/devices.h"

#include "absl/strings/str_cat.h"
#if defined(LIFT_HAVE_CUDA)
#include "kernels/cuda/cuda_backend.h"
#endif

namespace lift {
namespace {

absl::StatusOr<std::unique_ptr<Backend>> MakeGpu() {
#if defined(LIFT_HAVE_CUDA)
  LIFT_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend, MakeCudaBackend());
  LIFT_RETURN_IF_ERROR(CheckBackend(*backend));
  return backend;
#else
  return absl::FailedPreconditionError(
      "this program was built without CUDA; build it where nvcc is, or use --device cpu");
#endif
}

}  // namespace

bool IsDeviceChoice(std::string_view name) {
  return name == "auto" || name == "cpu" || name == "cuda";
}

absl::StatusOr<DeviceChoice> MakeDevice(std::string_view name, ThreadPool& pool, CpuIsa isa,
                                        const CpuTuning& tuning) {
  if (!IsDeviceChoice(name)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--device ", std::string(name), ": ", kDeviceChoices));
  }
  DeviceChoice choice;
  if (name != "cpu") {
    auto gpu = MakeGpu();
    if (gpu.ok()) {
      choice.backend = *std::move(gpu);
      return choice;
    }
    if (name == "cuda") {
      return absl::Status(gpu.status().code(),
                          absl::StrCat("--device cuda: ", std::string(gpu.status().message())));
    }
    // Worth a word only where a GPU is there and fails.
    if (gpu.status().code() == absl::StatusCode::kInternal)
      choice.note = absl::StrCat("Computing on the CPU: ", std::string(gpu.status().message()));
  }
  choice.backend = MakeCpuBackend(pool, isa, tuning);
  return choice;
}

absl::StatusOr<DeviceChoice> MakeDevice(std::string_view name, ThreadPool& pool, CpuIsa isa) {
  return MakeDevice(name, pool, isa, CpuTuning());
}

}  // namespace lift
