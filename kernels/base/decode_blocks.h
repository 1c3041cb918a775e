// The GGML block formats, decoded on the host and in kernels. Each decoder repeats the order of
// float operations of GGML's reference, so that results are equal to the bit; lift_options forbids
// the host's compiler to fuse them, the functions below CUDA's.
//
// A format has kElements and kBytes of a block; kRun, the elements of a sub-block, which share a
// scale; kAlignment, to which the fields of all blocks are aligned if the first block is; and
//   Decode<kCount, kAlign>(block, first, y): y[i] = element first + i of the block, i < kCount.
// kCount divides kRun and `first`; kAlign, 1 or kAlignment, is what is known of the block's
// address; above 1, kCount is a multiple of 8. Always inlined: GCC makes vectors of the loop in
// Decode where it is inside another, and unrolls it where it stands alone.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/base/host_device.h"

namespace lift::blocks {

LIFT_HOST_DEVICE inline float Mul(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
LIFT_HOST_DEVICE inline float Add(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}
LIFT_HOST_DEVICE inline float Sub(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fsub_rn(a, b);
#else
  return a - b;
#endif
}

LIFT_HOST_DEVICE inline float FromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// HalfToFloat of kernels/base/float16.h to the bit: binary16's exponent in binary32's place is 112
// too small, for subnormals as well.
LIFT_HOST_DEVICE inline float WidenHalf(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7FFF) << 13;
  if (magnitude >= 0x0F800000u) return FromBits(sign | 0x7F800000u | magnitude);
  return Mul(FromBits(sign | magnitude), 0x1p112f);
}

template <int kAlign, typename T>
LIFT_HOST_DEVICE inline T Read(const uint8_t* p) {
  constexpr int kKnown = kAlign < static_cast<int>(sizeof(T)) ? kAlign : sizeof(T);
  T value;
  std::memcpy(&value, __builtin_assume_aligned(p, kKnown), sizeof(value));
  return value;
}

template <int kAlign>
LIFT_HOST_DEVICE inline float Half(const uint8_t* p) {
  return WidenHalf(Read<kAlign, uint16_t>(p));
}

// kCount bytes in a row. Kernels fetch them in words as large as their alignment allows.
template <int kCount, int kAlign>
class Bytes {
 public:
#if defined(__CUDA_ARCH__)
  __device__ explicit Bytes(const uint8_t* p) {
    std::memcpy(bytes_, __builtin_assume_aligned(p, kAlign), kCount);
  }
#else
  LIFT_HOST_DEVICE explicit Bytes(const uint8_t* p) : bytes_(p) {}
#endif
  LIFT_HOST_DEVICE int operator[](int i) const { return bytes_[i]; }

 private:
#if defined(__CUDA_ARCH__)
  uint8_t bytes_[kCount];
#else
  const uint8_t* bytes_;
#endif
};

// ---- 32 elements a block: nibble j holds elements j (low) and j + 16 (high) ----

// d f16 | 16 bytes of nibbles
struct Q4_0 {
  static constexpr int kElements = 32, kBytes = 18, kRun = 16, kAlignment = 2;
  template <int kCount, int kAlign>
  [[gnu::always_inline]] LIFT_HOST_DEVICE static void Decode(const uint8_t* b, int first,
                                                             float* y) {
    const float d = Half<kAlign>(b);
    const Bytes<kCount, kAlign> q(b + 2 + first % 16);
    const int shift = first / 16 * 4;
    for (int i = 0; i < kCount; ++i) y[i] = Mul(static_cast<float>(((q[i] >> shift) & 15) - 8), d);
  }
};

// d f16 | m f16 | 16 bytes of nibbles
struct Q4_1 {
  static constexpr int kElements = 32, kBytes = 20, kRun = 16, kAlignment = 4;
  template <int kCount, int kAlign>
  [[gnu::always_inline]] LIFT_HOST_DEVICE static void Decode(const uint8_t* b, int first,
                                                             float* y) {
    const float d = Half<kAlign>(b), m = Half<kAlign>(b + 2);
    const Bytes<kCount, kAlign> q(b + 4 + first % 16);
    const int shift = first / 16 * 4;
    for (int i = 0; i < kCount; ++i)
      y[i] = Add(Mul(static_cast<float>((q[i] >> shift) & 15), d), m);
  }
};

// d f16 | 32 fifth bits | 16 bytes of nibbles
struct Q5_0 {
  static constexpr int kElements = 32, kBytes = 22, kRun = 16, kAlignment = 2;
  template <int kCount, int kAlign>
  [[gnu::always_inline]] LIFT_HOST_DEVICE static void Decode(const uint8_t* b, int first,
                                                             float* y) {
    const float d = Half<kAlign>(b);
    const uint32_t high = Read<kAlign, uint32_t>(b + 2) >> first;
    const Bytes<kCount, kAlign> q(b + 6 + first % 16);
    const int shift = first / 16 * 4;
    for (int i = 0; i < kCount; ++i) {
      const int fifth = static_cast<int>((high >> i) & 1) << 4;
      y[i] = Mul(static_cast<float>((((q[i] >> shift) & 15) | fifth) - 16), d);
    }
  }
};

// d f16 | m f16 | 32 fifth bits | 16 bytes of nibbles
struct Q5_1 {
  static constexpr int kElements = 32, kBytes = 24, kRun = 16, kAlignment = 8;
  template <int kCount, int kAlign>
  [[gnu::always_inline]] LIFT_HOST_DEVICE static void Decode(const uint8_t* b, int first,
                                                             float* y) {
    const float d = Half<kAlign>(b), m = Half<kAlign>(b + 2);
    const uint32_t high = Read<kAlign, uint32_t>(b + 4) >> first;
    const Bytes<kCount, kAlign> q(b + 8 + first % 16);
    const int shift = first / 16 * 4;
    for (int i = 0; i < kCount; ++i) {
      const int fifth = static_cast<int>((high >> i) & 1) << 4;
      y[i] = Add(Mul(static_cast<float>(((q[i] >> shift) & 15) | fifth), d), m);
    }
  }
};

// d f16 | 32 int8
struct Q8_0 {
  static constexpr int kElements = 32, kBytes = 34, kRun = 32, kAlignment = 2;
  template <int kCount, int kAlign>
  [[gnu::always_inline]] LIFT_HOST_DEVICE static void Decode(const uint8_t* b, int first,
                                                             float* y) {
    const float d = Half<kAlign>(b);
    const Bytes<kCount, kAlign> q(b + 2 + first);
    for (int i = 0; i < kCount; ++i) y[i] = Mul(static_cast<float>(static_cast<int8_t>(q[i])), d);
  }
};

// ---- 256 elements a block: sub-blocks of 16 or 32 with their own small scales ----

// 16 bytes of (min << 4 | scale) | 64 bytes of 2-bit | d f16 | dmin f16
struct Q2_K {
  static constexpr int kElements = 256, kBytes = 84, kRun = 16, kAlignment = 4;
  template <int kCount, int kAlign>
  [[gnu::always_inline]] LIFT_HOST_DEVICE static void Decode(const uint8_t* b, int first,
                                                             float* y) {
    const int sub = first / 16;
    const float dl = Mul(Half<kAlign>(b + 80), static_cast<float>(b[sub] & 15));
    const float ml = Mul(Half<kAlign>(b + 82), static_cast<float>(b[sub] >> 4));
    // Sub-blocks run over the halves (128), then the shift (32 each), then 16 bytes left or right.
    const Bytes<kCount, kAlign> q(b + 16 + 32 * (sub / 8) + 16 * (sub % 2) + first % 16);
    const int shift = 2 * ((sub % 8) / 2);
    for (int i = 0; i < kCount; ++i)
      y[i] = Sub(Mul(dl, static_cast<float>((q[i] >> shift) & 3)), ml);
  }
};

// 32 bytes of third bits | 64 bytes of 2-bit | 12 bytes of scales | d f16
struct Q3_K {
  static constexpr int kElements = 256, kBytes = 110, kRun = 16, kAlignment = 2;
  // The 16 signed 6-bit scales: low nibbles in bytes 0..7, high pairs in bytes 8..11.
  LIFT_HOST_DEVICE static int Scale(const uint8_t* packed, int i) {
    const int low = (packed[i % 8] >> (4 * (i / 8))) & 15;
    const int high = (packed[8 + i % 4] >> (2 * (i / 4))) & 3;
    return (low | (high << 4)) - 32;
  }
  template <int kCount, int kAlign>
  [[gnu::always_inline]] LIFT_HOST_DEVICE static void Decode(const uint8_t* b, int first,
                                                             float* y) {
    const int sub = first / 16;
    const float dl = Mul(Half<kAlign>(b + 108), static_cast<float>(Scale(b + 96, sub)));
    const int left = 16 * (sub % 2) + first % 16;
    const int group = sub / 2;  // one mask bit per group of 32 elements
    const Bytes<kCount, kAlign> mask(b + left), q(b + 32 + 32 * (sub / 8) + left);
    const int shift = 2 * (group % 4);
    for (int i = 0; i < kCount; ++i) {
      const int offset = ((mask[i] >> group) & 1) ? 0 : 4;
      y[i] = Mul(dl, static_cast<float>(((q[i] >> shift) & 3) - offset));
    }
  }
};

// The 8 scales and 8 minima of Q4_K and Q5_K, 6 bits each, in 12 bytes.
struct ScaleMin {
  float scale, min;
};
LIFT_HOST_DEVICE inline ScaleMin Q4ScaleMin(const uint8_t* packed, int i) {
  if (i < 4) {
    return {static_cast<float>(packed[i] & 63), static_cast<float>(packed[i + 4] & 63)};
  }
  return {static_cast<float>((packed[i + 4] & 15) | ((packed[i - 4] >> 6) << 4)),
          static_cast<float>((packed[i + 4] >> 4) | ((packed[i] >> 6) << 4))};
}

// d f16 | dmin f16 | 12 bytes of scales | 128 bytes of nibbles
struct Q4_K {
  static constexpr int kElements = 256, kBytes = 144, kRun = 32, kAlignment = 8;
  template <int kCount, int kAlign>
  [[gnu::always_inline]] LIFT_HOST_DEVICE static void Decode(const uint8_t* b, int first,
                                                             float* y) {
    const int sub = first / 32;
    const ScaleMin sm = Q4ScaleMin(b + 4, sub);
    const float d1 = Mul(Half<kAlign>(b), sm.scale), m1 = Mul(Half<kAlign>(b + 2), sm.min);
    const Bytes<kCount, kAlign> q(b + 16 + 32 * (sub / 2) + first % 32);
    const int shift = 4 * (sub % 2);
    for (int i = 0; i < kCount; ++i)
      y[i] = Sub(Mul(d1, static_cast<float>((q[i] >> shift) & 15)), m1);
  }
};

// d f16 | dmin f16 | 12 bytes of scales | 32 bytes of fifth bits | 128 bytes of nibbles
struct Q5_K {
  static constexpr int kElements = 256, kBytes = 176, kRun = 32, kAlignment = 8;
  template <int kCount, int kAlign>
  [[gnu::always_inline]] LIFT_HOST_DEVICE static void Decode(const uint8_t* b, int first,
                                                             float* y) {
    const int sub = first / 32;
    const ScaleMin sm = Q4ScaleMin(b + 4, sub);
    const float d1 = Mul(Half<kAlign>(b), sm.scale), m1 = Mul(Half<kAlign>(b + 2), sm.min);
    const Bytes<kCount, kAlign> high(b + 16 + first % 32);
    const Bytes<kCount, kAlign> q(b + 48 + 32 * (sub / 2) + first % 32);
    const int shift = 4 * (sub % 2);
    for (int i = 0; i < kCount; ++i) {
      const int value = ((q[i] >> shift) & 15) | (((high[i] >> sub) & 1) << 4);
      y[i] = Sub(Mul(d1, static_cast<float>(value)), m1);
    }
  }
};

// 128 bytes of low nibbles | 64 bytes of high pairs | 16 int8 scales | d f16
struct Q6_K {
  static constexpr int kElements = 256, kBytes = 210, kRun = 16, kAlignment = 2;
  template <int kCount, int kAlign>
  [[gnu::always_inline]] LIFT_HOST_DEVICE static void Decode(const uint8_t* b, int first,
                                                             float* y) {
    const int sub = first / 16, half = sub / 8, group = (sub % 8) / 2;
    const int left = 16 * (sub % 2) + first % 16;
    // Groups 0 and 2 share their nibble bytes, and so do 1 and 3.
    const Bytes<kCount, kAlign> low(b + 64 * half + 32 * (group % 2) + left);
    const Bytes<kCount, kAlign> high(b + 128 + 32 * half + left);
    const int low_shift = 4 * (group / 2), high_shift = 2 * group;
    const float d = Half<kAlign>(b + 208);
    const float dl = Mul(d, static_cast<float>(static_cast<int8_t>(b[192 + sub])));
    for (int i = 0; i < kCount; ++i) {
      const int value = ((low[i] >> low_shift) & 15) | (((high[i] >> high_shift) & 3) << 4);
      y[i] = Mul(dl, static_cast<float>(value - 32));
    }
  }
};

}  // namespace lift::blocks
