// The sign product on NVIDIA GPUs: every stage of one tensor, up to eight tokens at the price of
// one. No CUDA headers here.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/base/status.h"

namespace lift::cuda {

inline constexpr int kMaxStagesPerLaunch = 8;
inline constexpr int kMaxStored = 4, kMaxDerived = 2;

// One stage, all pointers in device memory.
struct SignStage {
  const uint8_t* planes =
      nullptr;  // the file's layout: [row tile][block][stored] tiles of 64 bytes
  const int8_t* activations = nullptr;  // [tokens][blocks][streams][32], the backend's order
  const float* scale = nullptr;  // [tokens] scale of the token's activations, 0 where the token
                                 // does not read the stage
  const int32_t* sum = nullptr;  // [tokens] sum of the token's activations over all streams
  const int64_t* rows_read = nullptr;  // [tokens] leading rows the token reads of this stage
  float gain = 0;
  int stored = 0, derived = 0;
  uint32_t masks[kMaxDerived][kMaxStored] =
      {};  // [derived][stored stream]: bit s = that stream's sign s columns back
};

struct SignGemm {
  int64_t rows = 0, blocks = 0;         // blocks of 32 columns
  int tokens = 0;                       // 1 to 8
  const uint16_t* row_scale = nullptr;  // [rows] binary16
  float* y = nullptr;                   // [tokens, rows]
  int stages = 0;
  SignStage stage[kMaxStagesPerLaunch];
};

// Queues the product on `stream` (a cudaStream_t) and returns; allocates nothing. Bad shapes are
// programmer errors (CHECK). UNAVAILABLE with the driver's words if the launch is refused.
absl::Status LaunchSignGemm(const SignGemm& gemm, void* stream);

// A usable device, or UNAVAILABLE with one sentence that says why there is none.
absl::StatusOr<std::string> DescribeDevice();

}  // namespace lift::cuda
