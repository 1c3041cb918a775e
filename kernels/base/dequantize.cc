// The GGML block formats. Each decoder repeats the order of float operations of GGML's reference,
// so that results are equal to the bit; lift_options forbids the compiler to fuse them.
#include <cstring>

#include "kernels/base/check.h"
#include "kernels/base/dtype.h"
#include "kernels/base/float16.h"

namespace lift {
namespace {

float Half(const uint8_t* p) {
  uint16_t bits;
  std::memcpy(&bits, p, sizeof(bits));
  return HalfToFloat(bits);
}

uint32_t Word(const uint8_t* p) {
  uint32_t word;
  std::memcpy(&word, p, sizeof(word));
  return word;
}

// ---- 32 elements a block: nibble j holds elements j (low) and j + 16 (high) ----

// d f16 | 16 bytes of nibbles
void DecodeQ4_0(const uint8_t* b, float* y) {
  const float d = Half(b);
  const uint8_t* q = b + 2;
  for (int j = 0; j < 16; ++j) {
    y[j] = static_cast<float>((q[j] & 15) - 8) * d;
    y[j + 16] = static_cast<float>((q[j] >> 4) - 8) * d;
  }
}

// d f16 | m f16 | 16 bytes of nibbles
void DecodeQ4_1(const uint8_t* b, float* y) {
  const float d = Half(b), m = Half(b + 2);
  const uint8_t* q = b + 4;
  for (int j = 0; j < 16; ++j) {
    y[j] = static_cast<float>(q[j] & 15) * d + m;
    y[j + 16] = static_cast<float>(q[j] >> 4) * d + m;
  }
}

// d f16 | 32 fifth bits | 16 bytes of nibbles
void DecodeQ5_0(const uint8_t* b, float* y) {
  const float d = Half(b);
  const uint32_t high = Word(b + 2);
  const uint8_t* q = b + 6;
  for (int j = 0; j < 16; ++j) {
    const int h0 = static_cast<int>((high >> j) & 1) << 4;
    const int h1 = static_cast<int>((high >> (j + 16)) & 1) << 4;
    y[j] = static_cast<float>(((q[j] & 15) | h0) - 16) * d;
    y[j + 16] = static_cast<float>(((q[j] >> 4) | h1) - 16) * d;
  }
}

// d f16 | m f16 | 32 fifth bits | 16 bytes of nibbles
void DecodeQ5_1(const uint8_t* b, float* y) {
  const float d = Half(b), m = Half(b + 2);
  const uint32_t high = Word(b + 4);
  const uint8_t* q = b + 8;
  for (int j = 0; j < 16; ++j) {
    const int h0 = static_cast<int>((high >> j) & 1) << 4;
    const int h1 = static_cast<int>((high >> (j + 16)) & 1) << 4;
    y[j] = static_cast<float>((q[j] & 15) | h0) * d + m;
    y[j + 16] = static_cast<float>((q[j] >> 4) | h1) * d + m;
  }
}

// d f16 | 32 int8
void DecodeQ8_0(const uint8_t* b, float* y) {
  const float d = Half(b);
  for (int j = 0; j < 32; ++j) y[j] = static_cast<float>(static_cast<int8_t>(b[2 + j])) * d;
}

// ---- 256 elements a block: sub-blocks of 16 or 32 with their own small scales ----

// 16 bytes of (min << 4 | scale) | 64 bytes of 2-bit | d f16 | dmin f16
void DecodeQ2_K(const uint8_t* b, float* y) {
  const uint8_t *scales = b, *q = b + 16;
  const float d = Half(b + 80), dmin = Half(b + 82);
  for (int sub = 0; sub < 16; ++sub) {
    // Sub-blocks run over the halves (128), then the shift (32 each), then 16 bytes left or right.
    const float dl = d * static_cast<float>(scales[sub] & 15);
    const float ml = dmin * static_cast<float>(scales[sub] >> 4);
    const uint8_t* bytes = q + 32 * (sub / 8) + 16 * (sub % 2);
    const int shift = 2 * ((sub % 8) / 2);
    for (int l = 0; l < 16; ++l) {
      y[16 * sub + l] = dl * static_cast<float>((bytes[l] >> shift) & 3) - ml;
    }
  }
}

// The 16 signed 6-bit scales of Q3_K: low nibbles in bytes 0..7, high pairs in bytes 8..11.
int Q3Scale(const uint8_t* packed, int i) {
  const int low = (packed[i % 8] >> (4 * (i / 8))) & 15;
  const int high = (packed[8 + i % 4] >> (2 * (i / 4))) & 3;
  return (low | (high << 4)) - 32;
}

// 32 bytes of third bits | 64 bytes of 2-bit | 12 bytes of scales | d f16
void DecodeQ3_K(const uint8_t* b, float* y) {
  const uint8_t *mask = b, *q = b + 32, *scales = b + 96;
  const float d = Half(b + 108);
  for (int sub = 0; sub < 16; ++sub) {
    const float dl = d * static_cast<float>(Q3Scale(scales, sub));
    const int left = 16 * (sub % 2), group = sub / 2;  // one mask bit per group of 32 elements
    const uint8_t* bytes = q + 32 * (sub / 8) + left;
    const int shift = 2 * (group % 4);
    for (int l = 0; l < 16; ++l) {
      const int offset = ((mask[left + l] >> group) & 1) ? 0 : 4;
      y[16 * sub + l] = dl * static_cast<float>(((bytes[l] >> shift) & 3) - offset);
    }
  }
}

// The 8 scales and 8 minima of Q4_K and Q5_K, 6 bits each, in 12 bytes.
struct ScaleMin {
  float scale, min;
};
ScaleMin Q4ScaleMin(const uint8_t* packed, int i) {
  if (i < 4) {
    return {static_cast<float>(packed[i] & 63), static_cast<float>(packed[i + 4] & 63)};
  }
  return {static_cast<float>((packed[i + 4] & 15) | ((packed[i - 4] >> 6) << 4)),
          static_cast<float>((packed[i + 4] >> 4) | ((packed[i] >> 6) << 4))};
}

// d f16 | dmin f16 | 12 bytes of scales | 128 bytes of nibbles
void DecodeQ4_K(const uint8_t* b, float* y) {
  const float d = Half(b), dmin = Half(b + 2);
  const uint8_t *scales = b + 4, *q = b + 16;
  for (int sub = 0; sub < 8; ++sub) {
    const ScaleMin sm = Q4ScaleMin(scales, sub);
    const float d1 = d * sm.scale, m1 = dmin * sm.min;
    const uint8_t* bytes = q + 32 * (sub / 2);
    const int shift = 4 * (sub % 2);
    for (int l = 0; l < 32; ++l) {
      y[32 * sub + l] = d1 * static_cast<float>((bytes[l] >> shift) & 15) - m1;
    }
  }
}

// d f16 | dmin f16 | 12 bytes of scales | 32 bytes of fifth bits | 128 bytes of nibbles
void DecodeQ5_K(const uint8_t* b, float* y) {
  const float d = Half(b), dmin = Half(b + 2);
  const uint8_t *scales = b + 4, *high = b + 16, *q = b + 48;
  for (int sub = 0; sub < 8; ++sub) {
    const ScaleMin sm = Q4ScaleMin(scales, sub);
    const float d1 = d * sm.scale, m1 = dmin * sm.min;
    const uint8_t* bytes = q + 32 * (sub / 2);
    const int shift = 4 * (sub % 2);
    for (int l = 0; l < 32; ++l) {
      const int value = ((bytes[l] >> shift) & 15) | (((high[l] >> sub) & 1) << 4);
      y[32 * sub + l] = d1 * static_cast<float>(value) - m1;
    }
  }
}

// 128 bytes of low nibbles | 64 bytes of high pairs | 16 int8 scales | d f16
void DecodeQ6_K(const uint8_t* b, float* y) {
  const float d = Half(b + 208);
  for (int sub = 0; sub < 16; ++sub) {
    const int half = sub / 8, group = (sub % 8) / 2, left = 16 * (sub % 2);
    // Groups 0 and 2 share their nibble bytes, and so do 1 and 3.
    const uint8_t* low = b + 64 * half + 32 * (group % 2) + left;
    const uint8_t* high = b + 128 + 32 * half + left;
    const int low_shift = 4 * (group / 2), high_shift = 2 * group;
    const float dl = d * static_cast<float>(static_cast<int8_t>(b[192 + sub]));
    for (int l = 0; l < 16; ++l) {
      const int value = ((low[l] >> low_shift) & 15) | (((high[l] >> high_shift) & 3) << 4);
      y[16 * sub + l] = dl * static_cast<float>(value - 32);
    }
  }
}

template <void (*kDecode)(const uint8_t*, float*)>
void DecodeBlocks(DType type, const uint8_t* data, std::span<float> out) {
  const size_t elements = static_cast<size_t>(BlockElements(type)), bytes = BlockBytes(type);
  for (size_t done = 0; done < out.size(); done += elements, data += bytes) {
    kDecode(data, out.data() + done);
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
      return DecodeBlocks<DecodeQ4_0>(type, bytes, out);
    case DType::kQ4_1:
      return DecodeBlocks<DecodeQ4_1>(type, bytes, out);
    case DType::kQ5_0:
      return DecodeBlocks<DecodeQ5_0>(type, bytes, out);
    case DType::kQ5_1:
      return DecodeBlocks<DecodeQ5_1>(type, bytes, out);
    case DType::kQ8_0:
      return DecodeBlocks<DecodeQ8_0>(type, bytes, out);
    case DType::kQ2_K:
      return DecodeBlocks<DecodeQ2_K>(type, bytes, out);
    case DType::kQ3_K:
      return DecodeBlocks<DecodeQ3_K>(type, bytes, out);
    case DType::kQ4_K:
      return DecodeBlocks<DecodeQ4_K>(type, bytes, out);
    case DType::kQ5_K:
      return DecodeBlocks<DecodeQ5_K>(type, bytes, out);
    case DType::kQ6_K:
      return DecodeBlocks<DecodeQ6_K>(type, bytes, out);
  }
  LIFT_CHECK(false);
}

}  // namespace lift
