// Sign planes times int8 with the 256-bit vpdpbusd: 32-bit sums at once, nothing to flush. Few
// columns are summed in several parts, since a dot product takes longer than its successor waits.

template <int kColumns>
void DotTileVnni(const SignDot& a, int tile, int64_t first) {
  const int streams = a.stored + a.derived_streams;
  const __m256i ones = _mm256_set1_epi8(1);
  const int8_t* u[kColumns];
  constexpr int kParts = kColumns == 1 ? 4 : kColumns == 2 ? 2 : 1;
  __m256i acc[kParts][kColumns][2];
  for (int c = 0; c < kColumns; ++c) {
    u[c] = a.columns[first + c];
    for (int part = 0; part < kParts; ++part) {
      acc[part][c][0] = acc[part][c][1] = _mm256_setzero_si256();
    }
  }
  const uint8_t* plane = a.planes[tile] + a.begin * a.stored * kTileBytes;
  const uint8_t* derived = a.derived[tile];
  int64_t offset = a.begin * streams * kTileColumns;
  for (int64_t b = a.begin; b < a.end; ++b) {
    for (int s = 0; s < streams; ++s, offset += kTileColumns) {
      const uint8_t*& words = s < a.stored ? plane : derived;
      const __m256i w[2] = {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(words)),
                            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words + 32))};
      words += kTileBytes;
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
            __m256i& sum = acc[bit % kParts][c][h];
            sum = _mm256_dpbusd_avx_epi32(sum, x[h], bytes);
          }
        }
      }
    }
  }
  for (int c = 0; c < kColumns; ++c) {
    for (int h = 0; h < 2; ++h) {
      __m256i total = acc[0][c][h];
      for (int part = 1; part < kParts; ++part) {
        total = _mm256_add_epi32(total, acc[part][c][h]);
      }
      AddTo(a.acc + (first + c) * kTilePair + tile * kTileRows + 8 * h, total);
    }
  }
}

void SignDotAvxVnni(const SignDot& a) {
  ByFours(a.num_columns, a.tiles, 0,
          [&](auto columns, int tile, int64_t first) { DotTileVnni<columns()>(a, tile, first); });
}
