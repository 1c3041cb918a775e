// Sixteen float lanes in plain C++; the compiler vectorizes what the baseline allows.
// Included into an anonymous namespace by one kernels_*.cc; the three simd_*.inl.h have one
// interface.

struct V {
  float v[kLanes];
};

#define LIFT_LANES(expr)                              \
  V out;                                              \
  for (int i = 0; i < kLanes; ++i) out.v[i] = (expr); \
  return out

inline V Splat(float x) { LIFT_LANES(x); }
inline V Load(const float* p) { LIFT_LANES(p[i]); }
inline V LoadN(const float* p, int64_t n) { LIFT_LANES(i < n ? p[i] : 0.0f); }
inline void Store(float* p, V a) {
  for (int i = 0; i < kLanes; ++i) p[i] = a.v[i];
}
inline void StoreN(float* p, V a, int64_t n) {
  for (int i = 0; i < kLanes && i < n; ++i) p[i] = a.v[i];
}
// Sixteen cells of a cache as floats.
inline V LoadCells(const float* p) { return Load(p); }
inline V LoadCells(const Half* p) { LIFT_LANES(HalfToFloat(p[i].bits)); }
inline V LoadCells(const Brain* p) { LIFT_LANES(BFloat16ToFloat(p[i].bits)); }
inline V LoadCells(const int8_t* p) { LIFT_LANES(static_cast<float>(p[i])); }
// Rounds to the nearest even binary16.
inline void StoreHalves(uint16_t* p, V a) {
  for (int i = 0; i < kLanes; ++i) p[i] = FloatToHalf(a.v[i]);
}
inline V Add(V a, V b) { LIFT_LANES(a.v[i] + b.v[i]); }
inline V Sub(V a, V b) { LIFT_LANES(a.v[i] - b.v[i]); }
inline V Mul(V a, V b) { LIFT_LANES(a.v[i] * b.v[i]); }
inline V Div(V a, V b) { LIFT_LANES(a.v[i] / b.v[i]); }
inline V Max(V a, V b) { LIFT_LANES(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
// One rounding.
inline V Fma(V a, V b, V c) { LIFT_LANES(__builtin_fmaf(a.v[i], b.v[i], c.v[i])); }
inline V SelectLess(V a, V b, V yes, V no) { LIFT_LANES(a.v[i] < b.v[i] ? yes.v[i] : no.v[i]); }
// p * 2^n for an integer n held in the low bits of t = n + 1.5 * 2^23.
inline V ScaleByMagic(V p, V t) {
  LIFT_LANES(__builtin_bit_cast(
      float, __builtin_bit_cast(uint32_t, p.v[i]) + (__builtin_bit_cast(uint32_t, t.v[i]) << 23)));
}
// Butterfly of lanes i and i ^ H: (low + high, low - high).
template <int H>
inline V LaneButterfly(V a) {
  LIFT_LANES((i & H) != 0 ? a.v[i ^ H] - a.v[i] : a.v[i] + a.v[i ^ H]);
}
inline float ReduceAdd(V a) {
  for (int h = 8; h > 0; h /= 2) {
    for (int i = 0; i < h; ++i) a.v[i] += a.v[i + h];
  }
  return a.v[0];
}
inline float ReduceMax(V a) {
  for (int h = 8; h > 0; h /= 2) {
    for (int i = 0; i < h; ++i) a.v[i] = a.v[i] > a.v[i + h] ? a.v[i] : a.v[i + h];
  }
  return a.v[0];
}
// dst[c * dst_stride + r] = src[r * src_stride + c], 16 x 16.
inline void Transpose16(const float* src, int64_t src_stride, float* dst, int64_t dst_stride) {
  for (int c = 0; c < 16; ++c) {
    for (int r = 0; r < 16; ++r) dst[c * dst_stride + r] = src[r * src_stride + c];
  }
}
// Sixteen 32-bit integers.
struct I {
  int32_t v[kLanes];
};
#define LIFT_INTEGERS(expr)                           \
  I out;                                              \
  for (int i = 0; i < kLanes; ++i) out.v[i] = (expr); \
  return out

inline I ZeroI() { LIFT_INTEGERS(0); }
inline I AddI(I a, I b) { LIFT_INTEGERS(a.v[i] + b.v[i]); }
inline I MaxI(I a, I b) { LIFT_INTEGERS(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
// The bits of |a|, which order as the magnitudes do, NaN above everything.
inline I MagnitudeBits(V a) { LIFT_INTEGERS(__builtin_bit_cast(int32_t, a.v[i]) & 0x7FFFFFFF); }
// The integer n of a = n + 1.5 * 2^23.
inline I FromMagic(V a) {
  LIFT_INTEGERS(__builtin_bit_cast(int32_t, a.v[i]) - __builtin_bit_cast(int32_t, 12582912.0f));
}
// a = 128 * high + low with low in [-64, 63].
inline void SplitWide(I a, I& high, I& low) {
  for (int i = 0; i < kLanes; ++i) {
    high.v[i] = (a.v[i] + 64) >> 7;
    low.v[i] = a.v[i] - high.v[i] * 128;
  }
}
// The low bytes of 32 columns in tile order: position 4 i + j holds column 8 j + i.
inline void StoreTileBytes(int8_t* p, I a, I b) {
  for (int i = 0; i < 8; ++i) {
    p[4 * i] = static_cast<int8_t>(a.v[i]);
    p[4 * i + 1] = static_cast<int8_t>(a.v[8 + i]);
    p[4 * i + 2] = static_cast<int8_t>(b.v[i]);
    p[4 * i + 3] = static_cast<int8_t>(b.v[8 + i]);
  }
}
inline void StoreI(int32_t* p, I a) {
  for (int i = 0; i < kLanes; ++i) p[i] = a.v[i];
}
#undef LIFT_INTEGERS
#undef LIFT_LANES

// Vectors of rows held in registers by a matmul kernel over `tokens` tokens at a time.
constexpr int VectorsFor(int) { return 1; }
