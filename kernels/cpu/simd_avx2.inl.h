// Sixteen float lanes in two registers. Interface: simd_portable.inl.h.

struct V {
  __m256 lo, hi;
};

inline __m256i FirstLanes(int64_t n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const int count = n < 0 ? 0 : n > 8 ? 8 : static_cast<int>(n);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane);
}
inline V Splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline V Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline V LoadN(const float* p, int64_t n) {
  if (n >= kLanes) return Load(p);
  return {_mm256_maskload_ps(p, FirstLanes(n)), _mm256_maskload_ps(p + 8, FirstLanes(n - 8))};
}
inline void Store(float* p, V a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
inline void StoreN(float* p, V a, int64_t n) {
  if (n >= kLanes) return Store(p, a);
  _mm256_maskstore_ps(p, FirstLanes(n), a.lo);
  _mm256_maskstore_ps(p + 8, FirstLanes(n - 8), a.hi);
}
inline __m128i Load128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline V LoadCells(const float* p) { return Load(p); }
inline V LoadCells(const Half* p) {
  return {_mm256_cvtph_ps(Load128(p)), _mm256_cvtph_ps(Load128(p + 8))};
}
inline __m256 BrainsToFloats(__m128i brains) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(brains), 16));
}
inline V LoadCells(const Brain* p) {
  return {BrainsToFloats(Load128(p)), BrainsToFloats(Load128(p + 8))};
}
inline V LoadCells(const int8_t* p) {
  const __m128i bytes = Load128(p);
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}
inline void StoreHalves(uint16_t* p, V a) {
  auto* to = reinterpret_cast<__m128i*>(p);
  _mm_storeu_si128(to, _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(to + 1, _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT));
}
inline V Add(V a, V b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline V Sub(V a, V b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline V Mul(V a, V b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline V Div(V a, V b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline V Max(V a, V b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline V Fma(V a, V b, V c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
inline V SelectLess(V a, V b, V yes, V no) {
  return {_mm256_blendv_ps(no.lo, yes.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
          _mm256_blendv_ps(no.hi, yes.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
}
inline __m256 ScaleHalf(__m256 p, __m256 t) {
  return _mm256_castsi256_ps(
      _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_castps_si256(t), 23)));
}
inline V ScaleByMagic(V p, V t) { return {ScaleHalf(p.lo, t.lo), ScaleHalf(p.hi, t.hi)}; }
template <int H>
inline __m256 HalfButterfly(__m256 a) {
  constexpr int kOdd = H == 1 ? 0xAA : H == 2 ? 0xCC : 0xF0;
  __m256 other;
  if constexpr (H == 1) other = _mm256_permute_ps(a, 0xB1);
  if constexpr (H == 2) other = _mm256_permute_ps(a, 0x4E);
  if constexpr (H == 4) other = _mm256_permute2f128_ps(a, a, 1);
  return _mm256_blend_ps(_mm256_add_ps(a, other), _mm256_sub_ps(other, a), kOdd);
}
template <int H>
inline V LaneButterfly(V a) {
  if constexpr (H == 8) {
    return {_mm256_add_ps(a.lo, a.hi), _mm256_sub_ps(a.lo, a.hi)};
  } else {
    return {HalfButterfly<H>(a.lo), HalfButterfly<H>(a.hi)};
  }
}
inline float ReduceAdd(V a) {
  const __m256 sum8 = _mm256_add_ps(a.lo, a.hi);
  __m128 sum4 = _mm_add_ps(_mm256_castps256_ps128(sum8), _mm256_extractf128_ps(sum8, 1));
  sum4 = _mm_add_ps(sum4, _mm_movehl_ps(sum4, sum4));
  return _mm_cvtss_f32(_mm_add_ss(sum4, _mm_movehdup_ps(sum4)));
}
inline float ReduceMax(V a) {
  const __m256 max8 = _mm256_max_ps(a.lo, a.hi);
  __m128 max4 = _mm_max_ps(_mm256_castps256_ps128(max8), _mm256_extractf128_ps(max8, 1));
  max4 = _mm_max_ps(max4, _mm_movehl_ps(max4, max4));
  return _mm_cvtss_f32(_mm_max_ss(max4, _mm_movehdup_ps(max4)));
}
inline void Transpose8(const float* src, int64_t src_stride, float* dst, int64_t dst_stride) {
  __m256 r[8], t[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(src + i * src_stride);
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xEE);
    r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    _mm256_storeu_ps(dst + c * dst_stride, _mm256_permute2f128_ps(r[c], r[4 + c], 0x20));
    _mm256_storeu_ps(dst + (4 + c) * dst_stride, _mm256_permute2f128_ps(r[c], r[4 + c], 0x31));
  }
}
inline void Transpose16(const float* src, int64_t src_stride, float* dst, int64_t dst_stride) {
  Transpose8(src, src_stride, dst, dst_stride);
  Transpose8(src + 8, src_stride, dst + 8 * dst_stride, dst_stride);
  Transpose8(src + 8 * src_stride, src_stride, dst + 8, dst_stride);
  Transpose8(src + 8 * src_stride + 8, src_stride, dst + 8 * dst_stride + 8, dst_stride);
}

struct I {
  __m256i lo, hi;
};
inline I ZeroI() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline I AddI(I a, I b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
inline I MaxI(I a, I b) { return {_mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi)}; }
inline I MagnitudeBits(V a) {
  const __m256i mask = _mm256_set1_epi32(0x7FFFFFFF);
  return {_mm256_and_si256(_mm256_castps_si256(a.lo), mask),
          _mm256_and_si256(_mm256_castps_si256(a.hi), mask)};
}
inline I FromMagic(V a) {
  const __m256i magic = _mm256_castps_si256(_mm256_set1_ps(12582912.0f));
  return {_mm256_sub_epi32(_mm256_castps_si256(a.lo), magic),
          _mm256_sub_epi32(_mm256_castps_si256(a.hi), magic)};
}
inline void SplitHalf(__m256i a, __m256i& high, __m256i& low) {
  high = _mm256_srai_epi32(_mm256_add_epi32(a, _mm256_set1_epi32(64)), 7);
  low = _mm256_sub_epi32(a, _mm256_slli_epi32(high, 7));
}
inline void SplitWide(I a, I& high, I& low) {
  SplitHalf(a.lo, high.lo, low.lo);
  SplitHalf(a.hi, high.hi, low.hi);
}
// Bytes 0-15 and 16-31 of 32 columns -> tile order.
inline void StoreTileOrder(int8_t* p, __m128i x, __m128i y) {
  const __m128i a = _mm_unpacklo_epi8(x, _mm_srli_si128(x, 8));
  const __m128i b = _mm_unpacklo_epi8(y, _mm_srli_si128(y, 8));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_unpacklo_epi16(a, b));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 16), _mm_unpackhi_epi16(a, b));
}
// Sixteen integers that fit a byte -> bytes in order.
inline __m128i PackBytes(I a) {
  const __m256i halves = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.lo, a.hi), 0xD8);
  return _mm_packs_epi16(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
}
inline void StoreTileBytes(int8_t* p, I a, I b) { StoreTileOrder(p, PackBytes(a), PackBytes(b)); }
inline void StoreI(int32_t* p, I a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.lo);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), a.hi);
}

// At most twelve of the sixteen registers hold sums.
constexpr int VectorsFor(int tokens) { return tokens == 1 ? 4 : tokens == 2 ? 2 : 1; }
