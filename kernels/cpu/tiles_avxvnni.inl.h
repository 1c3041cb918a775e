// Decoded tiles times int8 with the 256-bit vpdpbusd.

template <int kColumns>
void TileDotColumnsVnni(const TileDot& a, int tile, int64_t first) {
  __m256i sum[kColumns][2];
  for (int c = 0; c < kColumns; ++c) sum[c][0] = sum[c][1] = _mm256_setzero_si256();
  const int8_t* w = a.tiles[tile];
  const int8_t* x = a.columns + first * a.stride;
  for (int64_t quad = 0; quad < 8 * a.blocks; ++quad, w += kQuadBytes, x += 4) {
    const __m256i rows[2] = {_mm256_load_si256(reinterpret_cast<const __m256i*>(w)),
                             _mm256_load_si256(reinterpret_cast<const __m256i*>(w + 32))};
    for (int c = 0; c < kColumns; ++c) {
      const __m256i bytes = Bytes4(x + c * a.stride);
      for (int h = 0; h < 2; ++h) sum[c][h] = _mm256_dpbusd_avx_epi32(sum[c][h], rows[h], bytes);
    }
  }
  for (int c = 0; c < kColumns; ++c) {
    for (int h = 0; h < 2; ++h) {
      AddTo(a.acc + (first + c) * kTilePair + tile * kTileRows + 8 * h, sum[c][h]);
    }
  }
}

void TileDotAvxVnni(const TileDot& a) {
  ByFours(a.num_columns, 2, 0, [&](auto columns, int tile, int64_t first) {
    TileDotColumnsVnni<columns()>(a, tile, first);
  });
}
