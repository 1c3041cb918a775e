// Part of every test that is compiled for a GPU: without a usable one, all of it is skipped and
// says why.
#include <gtest/gtest.h>

#include "kernels/cuda/cuda_backend.h"

namespace {

class NeedsGpu : public ::testing::Environment {
 public:
  void SetUp() override {
    if (const auto backend = lift::MakeCudaBackend(); !backend.ok())
      GTEST_SKIP() << backend.status().message();
  }
};

const auto* const kEnvironment = ::testing::AddGlobalTestEnvironment(new NeedsGpu);

}  // namespace
