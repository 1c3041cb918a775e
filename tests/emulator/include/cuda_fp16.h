// Stands in for the CUDA toolkit's header: binary16 as storage, arithmetic in float.
#pragma once

#include <cuda_runtime.h>

#include "kernels/base/float16.h"

struct __half {
  uint16_t bits;
};
struct __half2 {
  __half x, y;
};
using half = __half;
inline float __half2float(__half h) { return lift::HalfToFloat(h.bits); }
inline __half __float2half_rn(float f) { return {lift::FloatToHalf(f)}; }
inline __half __ushort_as_half(unsigned short u) { return {u}; }
inline unsigned short __half_as_ushort(__half h) { return h.bits; }
