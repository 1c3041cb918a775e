#include "calibration/codes.h"

#include <bit>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/check.h"
#include "kernels/format/parity_masks.h"

namespace lift {
namespace {

LiftCode Make(std::string name, int stored, int derived, std::vector<float> taps) {
  LiftCode code;
  code.name = std::move(name);
  code.stored = stored;
  code.derived = derived;
  if (derived > 0) code.masks.push_back(kParityMasks[stored]);
  const int streams = code.streams();
  LIFT_CHECK(taps.size() % static_cast<size_t>(streams) == 0);
  code.steps = static_cast<int>(taps.size()) / streams;
  code.taps = std::move(taps);
  return code;
}

// Found by random restarts of alternating beam search and least squares on a unit Gaussian source.
const std::vector<LiftCode>& Codes() {
  static const std::vector<LiftCode>* codes = new std::vector<LiftCode>{
      Make("1+1p", 1, 1,
           {0.262f,  0.434f,  0.462f,  -0.420f, -0.078f, -0.025f, 0.041f, 0.063f, 0.028f,  0.179f,
            -0.015f, 0.197f,  -0.052f, 0.128f,  0.012f,  0.083f,  0.001f, 0.057f, -0.052f, -0.032f,
            0.050f,  -0.005f, -0.048f, -0.011f, -0.010f, -0.040f, 0.008f, -0.008f}),
      Make("2", 2, 0,
           {0.393f, 0.418f, 0.158f, 0.151f, 0.469f, 0.007f, -0.200f, -0.346f, -0.046f, 0.199f,
            0.305f, -0.313f, 0.207f, -0.144f, -0.111f, 0.334f}),
      Make("2+1p", 2, 1,
           {0.703f,  -0.434f, 0.040f,  -0.067f, 0.044f, 0.423f,  0.043f,  0.185f,  -0.042f,
            -0.052f, 0.051f,  0.196f,  0.093f,  0.034f, 0.203f,  -0.104f, -0.144f, -0.120f,
            -0.089f, -0.159f, -0.080f, -0.002f, 0.037f, -0.004f, -0.021f, -0.054f, 0.082f}),
      Make("3", 3, 0,
           {0.497f, 0.220f, 0.204f, -0.225f, 0.454f, -0.434f, 0.044f, -0.317f, -0.081f, -0.054f,
            0.313f, 0.289f, -0.116f, -0.084f, 0.145f, -0.391f, 0.238f, 0.105f}),
      Make("3+1p", 3, 1,
           {-0.005f, -0.424f, -0.596f, -0.302f, -0.087f, -0.374f, 0.193f,  0.240f, 0.249f,  -0.103f,
            0.030f,  0.307f,  0.046f,  -0.071f, 0.078f,  -0.035f, -0.127f, 0.050f, -0.235f, 0.185f,
            0.075f,  0.200f,  -0.024f, -0.037f, -0.030f, -0.089f, -0.076f, 0.094f}),
      Make("4", 4, 0, {0.241f, -0.247f, 0.152f,  0.363f,  -0.395f, -0.205f, -0.129f,
                       0.194f, -0.085f, 0.158f,  -0.359f, 0.192f,  -0.335f, -0.263f,
                       0.273f, 0.303f,  -0.065f, 0.002f,  0.216f,  -0.241f}),
      Make("4+1p", 4, 1,
           {0.297f,  -0.275f, 0.602f,  -0.533f, 0.414f,  -0.304f, -0.169f, 0.022f,  -0.243f,
            -0.086f, -0.144f, 0.105f,  0.094f,  -0.149f, -0.017f, 0.079f,  -0.102f, 0.011f,
            0.093f,  0.041f,  0.105f,  -0.074f, 0.068f,  0.102f,  -0.106f, -0.002f, 0.023f,
            -0.024f, -0.017f, -0.018f, -0.080f, 0.030f,  -0.026f, -0.067f, -0.009f}),
  };
  return *codes;
}

}  // namespace

std::vector<std::string> CodeNames() {
  std::vector<std::string> names;
  for (const LiftCode& code : Codes()) names.push_back(code.name);
  return names;
}

absl::StatusOr<LiftCode> FindCode(std::string_view name) {
  for (const LiftCode& code : Codes()) {
    if (code.name == name) return code;
  }
  return absl::NotFoundError(absl::StrCat("no lifting code is named '", std::string(name),
                                          "'; choose one of ", absl::StrJoin(CodeNames(), ", ")));
}

LiftCode DefaultCode(int bits) {
  static constexpr const char* kNames[] = {"1+1p", "2+1p", "3+1p", "4+1p"};
  LIFT_CHECK(bits >= 1 && bits <= 4);
  return *FindCode(kNames[bits - 1]);
}

uint32_t ColumnSigns(const LiftCode& code, const uint8_t* bits, int64_t n, int64_t t) {
  const int streams = code.streams();
  uint32_t signs = bits[(t + n) % n];
  for (int k = 0; k < code.derived; ++k) {
    uint32_t parity = 0;
    for (uint64_t mask = code.masks[static_cast<size_t>(k)]; mask != 0; mask &= mask - 1) {
      const int index = std::countr_zero(mask), back = index / streams;
      parity ^= static_cast<uint32_t>(bits[(t - back % n + 2 * n) % n]) >> (index % streams) & 1;
    }
    signs |= parity << (code.stored + k);
  }
  return signs;
}

void ReconstructRow(const LiftCode& code, const uint8_t* bits, int64_t n, float* out) {
  const int streams = code.streams();
  std::vector<uint32_t> signs(static_cast<size_t>(n));
  for (int64_t t = 0; t < n; ++t) signs[static_cast<size_t>(t)] = ColumnSigns(code, bits, n, t);
  for (int64_t t = 0; t < n; ++t) {
    float sum = 0;
    for (int m = 0; m < code.steps; ++m) {
      const uint32_t s = signs[static_cast<size_t>((t - m % n + n) % n)];
      for (int r = 0; r < streams; ++r) {
        const float tap = code.taps[static_cast<size_t>(m * streams + r)];
        sum += (s >> r & 1) != 0 ? tap : -tap;
      }
    }
    out[t] = sum;
  }
}

}  // namespace lift
