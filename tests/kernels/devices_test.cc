// Choosing a device, and the check that a device computes what the CPU computes.
#include "kernels/devices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/kernels/cuda_device.h"
#include "tests/kernels/kernel_tables.h"

namespace lift {
namespace {

using ::testing::HasSubstr;

TEST(MakeDevice, TakesTheCpuWhereToldTo) {
  ThreadPool pool(1);
  const auto choice = MakeDevice("cpu", pool);
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_EQ(choice->backend->device(), "cpu");
}

TEST(MakeDevice, RefusesOtherNames) {
  ThreadPool pool(1);
  const auto choice = MakeDevice("tpu", pool);
  EXPECT_EQ(choice.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(choice.status().message()), HasSubstr("auto, cpu or cuda"));
}

TEST(MakeDevice, AGpuThatIsAskedForIsUsedOrMissedByName) {
  ThreadPool pool(1);
  const auto choice = MakeDevice("cuda", pool);
  if (choice.ok()) {
    EXPECT_EQ(choice->backend->device(), "cuda:0");
  } else {
    EXPECT_THAT(std::string(choice.status().message()), HasSubstr("--device cuda: "));
  }
}

TEST(CheckBackend, PassesWhatComputesRightly) {
  ThreadPool pool(2);
  for (const cpu::Kernels* table : AllTables())
    EXPECT_TRUE(CheckBackend(*cpu::MakeCpuBackendOn(pool, *table)).ok());
  std::unique_ptr<Backend> cuda;
  LIFT_SKIP_WITHOUT_CUDA(cuda);
  EXPECT_TRUE(CheckBackend(*cuda).ok());
}

// One function of the portable table at a time computes something else.
cpu::Kernels Broken(const char* what) {
  cpu::Kernels table = cpu::PortableKernels();
  if (what == std::string("norm")) {
    table.rms_norm_row = [](const float* x, const float*, float, int64_t dim, float* out) {
      for (int64_t i = 0; i < dim; ++i) out[i] = x[i];
    };
  } else if (what == std::string("lifted")) {
    table.scale_rows = [](const uint16_t*, int64_t, float*) {};
  } else {
    table.attend = [](const cpu::AttendItem& item) {
      const int64_t dim = item.shape->head_dim;
      for (int64_t i = 0; i < dim; ++i) item.out[i] = 3;
    };
  }
  return table;
}

TEST(CheckBackend, NamesWhatComputesWrongly) {
  ThreadPool pool(1);
  for (const auto& [what, words] : {std::pair("norm", "a norm"), std::pair("lifted", "a lifted"),
                                    std::pair("attention", "attention")}) {
    const cpu::Kernels table = Broken(what);
    const absl::Status status = CheckBackend(*cpu::MakeCpuBackendOn(pool, table));
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << what;
    EXPECT_THAT(std::string(status.message()), HasSubstr(words));
  }
}

}  // namespace
}  // namespace lift
