// Part of every test that is compiled for a GPU: without a usable one, the program says why and
// ends with the code that CTest counts as skipped.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "kernels/cuda/cuda_backend.h"

namespace {

class NeedsGpu : public ::testing::Environment {
 public:
  void SetUp() override {
    constexpr int kSkipped = 77;  // SKIP_RETURN_CODE of lift_gpu_test
    const auto backend = lift::MakeCudaBackend();
    if (backend.ok()) return;
    std::printf("skipped: %s\n", std::string(backend.status().message()).c_str());
    std::fflush(stdout);
    std::_Exit(kSkipped);
  }
};

const auto* const kEnvironment = ::testing::AddGlobalTestEnvironment(new NeedsGpu);

}  // namespace
