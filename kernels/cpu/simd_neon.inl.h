// Sixteen float lanes in four registers of AArch64. Interface: simd_portable.inl.h.

struct V {
  float32x4_t q[4];
};

#define LIFT_QUADS(expr)                         \
  V out;                                         \
  for (int i = 0; i < 4; ++i) out.q[i] = (expr); \
  return out

inline V Splat(float x) { LIFT_QUADS(vdupq_n_f32(x)); }
inline V Load(const float* p) { LIFT_QUADS(vld1q_f32(p + 4 * i)); }
inline void Store(float* p, V a) {
  for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, a.q[i]);
}
inline V LoadN(const float* p, int64_t n) {
  if (n >= kLanes) return Load(p);
  float lanes[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
  return Load(lanes);
}
inline void StoreN(float* p, V a, int64_t n) {
  if (n >= kLanes) return Store(p, a);
  float lanes[kLanes];
  Store(lanes, a);
  for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}
inline V LoadCells(const float* p) { return Load(p); }
inline V LoadCells(const Half* p) {
  const auto* halves = reinterpret_cast<const uint16_t*>(p);
  LIFT_QUADS(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(halves + 4 * i))));
}
inline V LoadCells(const Brain* p) {
  const auto* brains = reinterpret_cast<const uint16_t*>(p);
  LIFT_QUADS(vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(brains + 4 * i), 16)));
}
inline V LoadCells(const int8_t* p) {
  const int8x16_t bytes = vld1q_s8(p);
  const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
  return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
           vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
           vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
           vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))}};
}
inline void StoreHalves(uint16_t* p, V a) {
  for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.q[i])));
}
inline V Add(V a, V b) { LIFT_QUADS(vaddq_f32(a.q[i], b.q[i])); }
inline V Sub(V a, V b) { LIFT_QUADS(vsubq_f32(a.q[i], b.q[i])); }
inline V Mul(V a, V b) { LIFT_QUADS(vmulq_f32(a.q[i], b.q[i])); }
inline V Div(V a, V b) { LIFT_QUADS(vdivq_f32(a.q[i], b.q[i])); }
// As on x86: b where either is not a number.
inline V Max(V a, V b) { LIFT_QUADS(vbslq_f32(vcgtq_f32(a.q[i], b.q[i]), a.q[i], b.q[i])); }
inline V Fma(V a, V b, V c) { LIFT_QUADS(vfmaq_f32(c.q[i], a.q[i], b.q[i])); }
inline V SelectLess(V a, V b, V yes, V no) {
  LIFT_QUADS(vbslq_f32(vcltq_f32(a.q[i], b.q[i]), yes.q[i], no.q[i]));
}
inline V ScaleByMagic(V p, V t) {
  LIFT_QUADS(vreinterpretq_f32_u32(
      vaddq_u32(vreinterpretq_u32_f32(p.q[i]), vshlq_n_u32(vreinterpretq_u32_f32(t.q[i]), 23))));
}
template <int H>
inline V LaneButterfly(V a) {
  if constexpr (H == 8) {
    return {{vaddq_f32(a.q[0], a.q[2]), vaddq_f32(a.q[1], a.q[3]), vsubq_f32(a.q[0], a.q[2]),
             vsubq_f32(a.q[1], a.q[3])}};
  } else if constexpr (H == 4) {
    return {{vaddq_f32(a.q[0], a.q[1]), vsubq_f32(a.q[0], a.q[1]), vaddq_f32(a.q[2], a.q[3]),
             vsubq_f32(a.q[2], a.q[3])}};
  } else {
    const uint32_t all = ~0u;
    const uint32_t lanes[4] = {0, H == 1 ? all : 0, H == 2 ? all : 0, all};
    const uint32x4_t odd = vld1q_u32(lanes);
    V out;
    for (int i = 0; i < 4; ++i) {
      const float32x4_t other = H == 1 ? vrev64q_f32(a.q[i]) : vextq_f32(a.q[i], a.q[i], 2);
      out.q[i] = vbslq_f32(odd, vsubq_f32(other, a.q[i]), vaddq_f32(a.q[i], other));
    }
    return out;
  }
}
inline float ReduceAdd(V a) {
  const float32x4_t sum4 = vaddq_f32(vaddq_f32(a.q[0], a.q[2]), vaddq_f32(a.q[1], a.q[3]));
  const float32x2_t sum2 = vadd_f32(vget_low_f32(sum4), vget_high_f32(sum4));
  return vget_lane_f32(sum2, 0) + vget_lane_f32(sum2, 1);
}
inline float ReduceMax(V a) {
  float lanes[kLanes];
  Store(lanes, a);
  for (int h = 8; h > 0; h /= 2) {
    for (int i = 0; i < h; ++i) lanes[i] = lanes[i] > lanes[i + h] ? lanes[i] : lanes[i + h];
  }
  return lanes[0];
}
inline void Transpose4(const float* src, int64_t src_stride, float* dst, int64_t dst_stride) {
  float32x4_t r[4];
  for (int i = 0; i < 4; ++i) r[i] = vld1q_f32(src + i * src_stride);
  const float32x4x2_t a = vtrnq_f32(r[0], r[1]), b = vtrnq_f32(r[2], r[3]);
  for (int c = 0; c < 2; ++c) {
    vst1q_f32(dst + c * dst_stride, vcombine_f32(vget_low_f32(a.val[c]), vget_low_f32(b.val[c])));
    vst1q_f32(dst + (2 + c) * dst_stride,
              vcombine_f32(vget_high_f32(a.val[c]), vget_high_f32(b.val[c])));
  }
}
inline void Transpose16(const float* src, int64_t src_stride, float* dst, int64_t dst_stride) {
  for (int r = 0; r < 16; r += 4) {
    for (int c = 0; c < 16; c += 4) {
      Transpose4(src + r * src_stride + c, src_stride, dst + c * dst_stride + r, dst_stride);
    }
  }
}

struct I {
  int32x4_t q[4];
};
#define LIFT_INTEGERS(expr)                      \
  I out;                                         \
  for (int i = 0; i < 4; ++i) out.q[i] = (expr); \
  return out

inline I ZeroI() { LIFT_INTEGERS(vdupq_n_s32(0)); }
inline I AddI(I a, I b) { LIFT_INTEGERS(vaddq_s32(a.q[i], b.q[i])); }
inline I MaxI(I a, I b) { LIFT_INTEGERS(vmaxq_s32(a.q[i], b.q[i])); }
inline I MagnitudeBits(V a) {
  LIFT_INTEGERS(vandq_s32(vreinterpretq_s32_f32(a.q[i]), vdupq_n_s32(0x7FFFFFFF)));
}
inline I FromMagic(V a) {
  const int32x4_t magic = vreinterpretq_s32_f32(vdupq_n_f32(12582912.0f));
  LIFT_INTEGERS(vsubq_s32(vreinterpretq_s32_f32(a.q[i]), magic));
}
inline void SplitWide(I a, I& high, I& low) {
  for (int i = 0; i < 4; ++i) {
    high.q[i] = vshrq_n_s32(vaddq_s32(a.q[i], vdupq_n_s32(64)), 7);
    low.q[i] = vsubq_s32(a.q[i], vshlq_n_s32(high.q[i], 7));
  }
}
inline int8x16_t PackBytes(I a) {
  const int16x8_t low = vcombine_s16(vmovn_s32(a.q[0]), vmovn_s32(a.q[1]));
  const int16x8_t high = vcombine_s16(vmovn_s32(a.q[2]), vmovn_s32(a.q[3]));
  return vcombine_s8(vmovn_s16(low), vmovn_s16(high));
}
inline void StoreTileBytes(int8_t* p, I a, I b) {
  const int8x16_t x = PackBytes(a), y = PackBytes(b);
  const int8x8x4_t rows = {{vget_low_s8(x), vget_high_s8(x), vget_low_s8(y), vget_high_s8(y)}};
  vst4_s8(p, rows);  // interleaves the four runs of eight columns
}
inline void StoreI(int32_t* p, I a) {
  for (int i = 0; i < 4; ++i) vst1q_s32(p + 4 * i, a.q[i]);
}
#undef LIFT_INTEGERS
#undef LIFT_QUADS

// At most 24 of the 32 registers hold sums.
constexpr int VectorsFor(int tokens) { return tokens == 1 ? 4 : tokens <= 3 ? 2 : 1; }
