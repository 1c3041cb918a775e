// ExpandByNibbles with vpshufb, eight rows a register. kBias: Kernels::tile_bias.

template <int kBias>
struct NibblesAvx2 {
  static constexpr int kRows = 8;
  using Bytes = __m256i;
  using Sums = __m256i;

  static Sums Zero() { return _mm256_setzero_si256(); }
  static Bytes Nibbles(const uint32_t* now, const uint32_t* before, int right) {
    const __m256i word = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(now));
    const __m256i low4 = _mm256_set1_epi8(15);
    if (right >= 0) return _mm256_and_si256(_mm256_srl_epi32(word, _mm_cvtsi32_si128(right)), low4);
    const __m256i last = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(before));
    return _mm256_and_si256(_mm256_or_si256(_mm256_sll_epi32(word, _mm_cvtsi32_si128(-right)),
                                            _mm256_srl_epi32(last, _mm_cvtsi32_si128(32 + right))),
                            low4);
  }
  static Bytes Table(const uint8_t* bytes) {
    return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes)));
  }
  static Bytes LookUp(Bytes table, Bytes index) { return _mm256_shuffle_epi8(table, index); }
  static void Add(Bytes low, Bytes high, Sums* sum) {
    sum[0] = _mm256_add_epi16(sum[0], _mm256_unpacklo_epi8(low, high));
    sum[1] = _mm256_add_epi16(sum[1], _mm256_unpackhi_epi8(low, high));
  }
  static void StoreBytes(Bytes bytes, int8_t* out) {
    if constexpr (kBias != 0) bytes = _mm256_xor_si256(bytes, _mm256_set1_epi8(-128));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), bytes);
  }
  static void Store(const Sums* sum, int8_t* high, int8_t* low) {
    const __m256i half_step = _mm256_set1_epi16(128), byte = _mm256_set1_epi16(255);
    StoreBytes(_mm256_packs_epi16(_mm256_srai_epi16(_mm256_add_epi16(sum[0], half_step), 8),
                                  _mm256_srai_epi16(_mm256_add_epi16(sum[1], half_step), 8)),
               high);
    if (low == nullptr) return;
    StoreBytes(_mm256_packus_epi16(_mm256_and_si256(sum[0], byte), _mm256_and_si256(sum[1], byte)),
               low);
  }
};
