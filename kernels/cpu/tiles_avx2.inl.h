// Decoded tiles times int8 with vpmaddubsw: |w| <= 128 as unsigned and x with w's sign, so two
// products are at most 2 * 128 * 127 < 2^15.

template <int kColumns>
void TileDotColumns(const TileDot& a, int tile, int64_t first) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i sum[kColumns][2];
  for (int c = 0; c < kColumns; ++c) sum[c][0] = sum[c][1] = _mm256_setzero_si256();
  const int8_t* w = a.tiles[tile];
  const int8_t* x = a.columns + first * a.stride;
  for (int64_t quad = 0; quad < 8 * a.blocks; ++quad, w += kQuadBytes, x += 4) {
    __m256i rows[2], size[2];
    for (int h = 0; h < 2; ++h) {
      rows[h] = _mm256_load_si256(reinterpret_cast<const __m256i*>(w + 32 * h));
      size[h] = _mm256_abs_epi8(rows[h]);
    }
    for (int c = 0; c < kColumns; ++c) {
      const __m256i bytes = Bytes4(x + c * a.stride);
      for (int h = 0; h < 2; ++h) {
        const __m256i pairs = _mm256_maddubs_epi16(size[h], _mm256_sign_epi8(bytes, rows[h]));
        sum[c][h] = _mm256_add_epi32(sum[c][h], _mm256_madd_epi16(pairs, ones));
      }
    }
  }
  for (int c = 0; c < kColumns; ++c) {
    for (int h = 0; h < 2; ++h) {
      AddTo(a.acc + (first + c) * kTilePair + tile * kTileRows + 8 * h, sum[c][h]);
    }
  }
}

[[maybe_unused]] void TileDotAvx2(const TileDot& a) {
  ByFours(a.num_columns, 2, 0, [&](auto columns, int tile, int64_t first) {
    TileDotColumns<columns()>(a, tile, first);
  });
}
