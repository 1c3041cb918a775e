// Stored tensors into float: whole rows of the formats of kernels/base/decode_blocks.h.
#include <cstring>

#include "kernels/base/check.h"
#include "kernels/base/decode_blocks.h"
#include "kernels/base/dtype.h"
#include "kernels/base/float16.h"

namespace lift {
namespace {

template <typename Format>
void DecodeBlocks(const uint8_t* data, std::span<float> out) {
  float* y = out.data();
  for (float* const end = y + out.size(); y < end; y += Format::kElements) {
    for (int first = 0; first < Format::kElements; first += Format::kRun)
      Format::template Decode<Format::kRun, 1>(data, first, y + first);
    data += Format::kBytes;
  }
}

template <float (*kWiden)(uint16_t)>
void Widen(const uint8_t* data, std::span<float> out) {
  for (size_t i = 0; i < out.size(); ++i) {
    uint16_t bits;  // the source may be unaligned
    std::memcpy(&bits, data + 2 * i, sizeof(bits));
    out[i] = kWiden(bits);
  }
}

}  // namespace

void Dequantize(DType type, const std::byte* data, std::span<float> out) {
  LIFT_CHECK(out.size() % static_cast<size_t>(BlockElements(type)) == 0);
  if (out.empty()) return;
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(data);
  switch (type) {
    case DType::kF32:
      std::memcpy(out.data(), bytes, out.size_bytes());
      return;
    case DType::kF16:
      return Widen<HalfToFloat>(bytes, out);
    case DType::kBF16:
      return Widen<BFloat16ToFloat>(bytes, out);
    case DType::kQ4_0:
      return DecodeBlocks<blocks::Q4_0>(bytes, out);
    case DType::kQ4_1:
      return DecodeBlocks<blocks::Q4_1>(bytes, out);
    case DType::kQ5_0:
      return DecodeBlocks<blocks::Q5_0>(bytes, out);
    case DType::kQ5_1:
      return DecodeBlocks<blocks::Q5_1>(bytes, out);
    case DType::kQ8_0:
      return DecodeBlocks<blocks::Q8_0>(bytes, out);
    case DType::kQ2_K:
      return DecodeBlocks<blocks::Q2_K>(bytes, out);
    case DType::kQ3_K:
      return DecodeBlocks<blocks::Q3_K>(bytes, out);
    case DType::kQ4_K:
      return DecodeBlocks<blocks::Q4_K>(bytes, out);
    case DType::kQ5_K:
      return DecodeBlocks<blocks::Q5_K>(bytes, out);
    case DType::kQ6_K:
      return DecodeBlocks<blocks::Q6_K>(bytes, out);
  }
  LIFT_CHECK(false);
}

}  // namespace lift
