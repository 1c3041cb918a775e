// Sign planes times int8 with vpmaddubsw. A tile is two registers of 8 rows. Bytes are 0 or 1, so a
// 16-bit sum grows by at most 2 * 127 a bit position: 16 tiles of 8 positions stay below 2^15.

constexpr int kTilesBeforeFlush = 16;

inline __m256i Bytes4(const int8_t* p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof(word));
  return _mm256_set1_epi32(word);
}

// acc[8] += value
inline void AddTo(int32_t* acc, __m256i value) {
  auto* sums = reinterpret_cast<__m256i*>(acc);
  _mm256_store_si256(sums, _mm256_add_epi32(_mm256_load_si256(sums), value));
}

template <int kColumns>
struct TileSums {
  __m256i narrow[kColumns][2];  // 16-bit pairs, flushed into `wide`
  __m256i wide[kColumns][2];

  void Clear() {
    for (int c = 0; c < kColumns; ++c) {
      for (int h = 0; h < 2; ++h) narrow[c][h] = wide[c][h] = _mm256_setzero_si256();
    }
  }
  void Flush() {
    const __m256i ones = _mm256_set1_epi16(1);
    for (int c = 0; c < kColumns; ++c) {
      for (int h = 0; h < 2; ++h) {
        wide[c][h] = _mm256_add_epi32(wide[c][h], _mm256_madd_epi16(narrow[c][h], ones));
        narrow[c][h] = _mm256_setzero_si256();
      }
    }
  }
};

template <int kColumns>
inline void AddTile(const uint8_t* words, const int8_t* const* u, int64_t offset,
                    TileSums<kColumns>& sums) {
  const __m256i w[2] = {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(words)),
                        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words + 32))};
  const __m256i ones = _mm256_set1_epi8(1);
#pragma GCC unroll 8
  for (int bit = 0; bit < 8; ++bit) {
    __m256i x[2];
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) x[h] = _mm256_and_si256(_mm256_srli_epi32(w[h], bit), ones);
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) {
      const __m256i bytes = Bytes4(u[c] + offset + 4 * bit);
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        sums.narrow[c][h] = _mm256_add_epi16(sums.narrow[c][h], _mm256_maddubs_epi16(x[h], bytes));
      }
    }
  }
}

template <int kColumns>
void DotTile(const SignDot& a, int tile, int64_t first) {
  const int streams = a.stored + a.derived_streams;
  const int8_t* u[kColumns];
  for (int c = 0; c < kColumns; ++c) u[c] = a.columns[first + c];
  TileSums<kColumns> sums;
  sums.Clear();
  int filled = 0;
  const uint8_t* plane = a.planes[tile] + a.begin * a.stored * kTileBytes;
  const uint8_t* derived = a.derived[tile];
  int64_t offset = a.begin * streams * kTileColumns;
  for (int64_t b = a.begin; b < a.end; ++b) {
    for (int s = 0; s < streams; ++s, offset += kTileColumns) {
      const uint8_t*& words = s < a.stored ? plane : derived;
      AddTile<kColumns>(words, u, offset, sums);
      words += kTileBytes;
      if (++filled == kTilesBeforeFlush) {
        sums.Flush();
        filled = 0;
      }
    }
  }
  sums.Flush();
  for (int c = 0; c < kColumns; ++c) {
    for (int h = 0; h < 2; ++h) {
      AddTo(a.acc + (first + c) * kTilePair + tile * kTileRows + 8 * h, sums.wide[c][h]);
    }
  }
}

[[maybe_unused]] void SignDotAvx2(const SignDot& a) {
  ByFours(a.num_columns, a.tiles, 0,
          [&](auto columns, int tile, int64_t first) { DotTile<columns()>(a, tile, first); });
}

void ScaleRows(const uint16_t* scale, int64_t rows, float* y) {
  for (int64_t r = 0; r < rows; r += 8) {
    const int64_t n = rows - r < 8 ? rows - r : 8;
    uint16_t halves[8] = {};
    for (int64_t i = 0; i < n; ++i) halves[i] = scale[r + i];
    __m128i packed;
    __builtin_memcpy(&packed, halves, sizeof(packed));
    const __m256i lanes = FirstLanes(n);
    const __m256 values = _mm256_maskload_ps(y + r, lanes);
    _mm256_maskstore_ps(y + r, lanes, _mm256_mul_ps(values, _mm256_cvtph_ps(packed)));
  }
}
