// Sixteen float lanes in one register. Interface: simd_portable.inl.h.

struct V {
  __m512 v;
};

inline __mmask16 FirstLanes(int64_t n) {
  return n >= kLanes ? static_cast<__mmask16>(0xFFFF) : static_cast<__mmask16>((1u << n) - 1);
}
inline V Splat(float x) { return {_mm512_set1_ps(x)}; }
inline V Load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline V LoadN(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(FirstLanes(n), p)}; }
inline void Store(float* p, V a) { _mm512_storeu_ps(p, a.v); }
inline void StoreN(float* p, V a, int64_t n) { _mm512_mask_storeu_ps(p, FirstLanes(n), a.v); }
inline V LoadCells(const float* p) { return Load(p); }
inline V LoadCells(const Half* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline V LoadCells(const Brain* p) {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16))};
}
inline V LoadCells(const int8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))};
}
inline void StoreHalves(uint16_t* p, V a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline V Add(V a, V b) { return {_mm512_add_ps(a.v, b.v)}; }
inline V Sub(V a, V b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline V Mul(V a, V b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline V Div(V a, V b) { return {_mm512_div_ps(a.v, b.v)}; }
inline V Max(V a, V b) { return {_mm512_max_ps(a.v, b.v)}; }
inline V Fma(V a, V b, V c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline V SelectLess(V a, V b, V yes, V no) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), no.v, yes.v)};
}
inline V ScaleByMagic(V p, V t) {
  return {_mm512_castsi512_ps(
      _mm512_add_epi32(_mm512_castps_si512(p.v), _mm512_slli_epi32(_mm512_castps_si512(t.v), 23)))};
}
template <int H>
inline V LaneButterfly(V a) {
  constexpr int kOdd = H == 1 ? 0xAAAA : H == 2 ? 0xCCCC : H == 4 ? 0xF0F0 : 0xFF00;
  __m512 other;
  if constexpr (H == 1) other = _mm512_permute_ps(a.v, 0xB1);
  if constexpr (H == 2) other = _mm512_permute_ps(a.v, 0x4E);
  if constexpr (H == 4) other = _mm512_shuffle_f32x4(a.v, a.v, 0xB1);
  if constexpr (H == 8) other = _mm512_shuffle_f32x4(a.v, a.v, 0x4E);
  const __m512 sum = _mm512_add_ps(a.v, other);
  return {_mm512_mask_sub_ps(sum, static_cast<__mmask16>(kOdd), other, a.v)};
}
inline float ReduceAdd(V a) {
  const __m256 high8 = _mm512_extractf32x8_ps(a.v, 1);
  const __m256 sum8 = _mm256_add_ps(_mm512_castps512_ps256(a.v), high8);
  __m128 sum4 = _mm_add_ps(_mm256_castps256_ps128(sum8), _mm256_extractf128_ps(sum8, 1));
  sum4 = _mm_add_ps(sum4, _mm_movehl_ps(sum4, sum4));
  return _mm_cvtss_f32(_mm_add_ss(sum4, _mm_movehdup_ps(sum4)));
}
inline float ReduceMax(V a) {
  const __m256 high8 = _mm512_extractf32x8_ps(a.v, 1);
  const __m256 max8 = _mm256_max_ps(_mm512_castps512_ps256(a.v), high8);
  __m128 max4 = _mm_max_ps(_mm256_castps256_ps128(max8), _mm256_extractf128_ps(max8, 1));
  max4 = _mm_max_ps(max4, _mm_movehl_ps(max4, max4));
  return _mm_cvtss_f32(_mm_max_ss(max4, _mm_movehdup_ps(max4)));
}
inline void Transpose16(const float* src, int64_t src_stride, float* dst, int64_t dst_stride) {
  __m512 r[16], t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_ps(src + i * src_stride);
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
  // r[4g + c]: column 4l + c of rows 4g..4g+3 in 128-bit lane l.
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xEE);
    r[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512 a = _mm512_shuffle_f32x4(r[c], r[4 + c], 0x88);  // lanes 0, 2
    const __m512 b = _mm512_shuffle_f32x4(r[c], r[4 + c], 0xDD);  // lanes 1, 3
    const __m512 d = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0x88);
    const __m512 e = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0xDD);
    _mm512_storeu_ps(dst + c * dst_stride, _mm512_shuffle_f32x4(a, d, 0x88));
    _mm512_storeu_ps(dst + (4 + c) * dst_stride, _mm512_shuffle_f32x4(b, e, 0x88));
    _mm512_storeu_ps(dst + (8 + c) * dst_stride, _mm512_shuffle_f32x4(a, d, 0xDD));
    _mm512_storeu_ps(dst + (12 + c) * dst_stride, _mm512_shuffle_f32x4(b, e, 0xDD));
  }
}

struct I {
  __m512i v;
};
inline I ZeroI() { return {_mm512_setzero_si512()}; }
inline I AddI(I a, I b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline I MaxI(I a, I b) { return {_mm512_max_epi32(a.v, b.v)}; }
inline I MagnitudeBits(V a) {
  return {_mm512_and_si512(_mm512_castps_si512(a.v), _mm512_set1_epi32(0x7FFFFFFF))};
}
inline I FromMagic(V a) {
  const __m512i magic = _mm512_castps_si512(_mm512_set1_ps(12582912.0f));
  return {_mm512_sub_epi32(_mm512_castps_si512(a.v), magic)};
}
inline void SplitWide(I a, I& high, I& low) {
  high.v = _mm512_srai_epi32(_mm512_add_epi32(a.v, _mm512_set1_epi32(64)), 7);
  low.v = _mm512_sub_epi32(a.v, _mm512_slli_epi32(high.v, 7));
}
// Bytes 0-15 and 16-31 of 32 columns -> tile order.
inline void StoreTileOrder(int8_t* p, __m128i x, __m128i y) {
  const __m128i a = _mm_unpacklo_epi8(x, _mm_srli_si128(x, 8));
  const __m128i b = _mm_unpacklo_epi8(y, _mm_srli_si128(y, 8));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_unpacklo_epi16(a, b));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 16), _mm_unpackhi_epi16(a, b));
}
inline void StoreTileBytes(int8_t* p, I a, I b) {
  StoreTileOrder(p, _mm512_cvtepi32_epi8(a.v), _mm512_cvtepi32_epi8(b.v));
}
inline void StoreI(int32_t* p, I a) { _mm512_storeu_si512(p, a.v); }

constexpr int VectorsFor(int) { return 4; }
