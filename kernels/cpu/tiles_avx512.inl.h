// Decoded tiles times int8 with vpdpbusd, and decoding with byte tables (VBMI): a sliding window of
// seven signs is one unaligned byte of a row's 64-bit word, which vpmultishiftqb picks for eight
// columns of eight rows at once and vpermi2b looks up in 128 entries.

// kColumns columns against a pair of tiles.
template <int kColumns>
void TileDotColumns(const TileDot& a, const int8_t* x, int32_t* acc) {
  __m512i sum[2][kColumns];
#pragma GCC unroll 12
  for (int c = 0; c < kColumns; ++c) {
    sum[0][c] = _mm512_load_si512(acc + c * kTilePair);
    sum[1][c] = _mm512_load_si512(acc + c * kTilePair + kTileRows);
  }
  const int8_t *w0 = a.tiles[0], *w1 = a.tiles[1];
  const int64_t stride = a.stride;
  for (int64_t b = 0; b < a.blocks; ++b, x += kTileColumns) {
#pragma GCC unroll 8
    for (int quad = 0; quad < 8; ++quad, w0 += kQuadBytes, w1 += kQuadBytes) {
      const __m512i tile0 = _mm512_load_si512(w0), tile1 = _mm512_load_si512(w1);
#pragma GCC unroll 12
      for (int c = 0; c < kColumns; ++c) {
        const __m512i bytes = Bytes4(x + c * stride + 4 * quad);
        sum[0][c] = _mm512_dpbusd_epi32(sum[0][c], tile0, bytes);
        sum[1][c] = _mm512_dpbusd_epi32(sum[1][c], tile1, bytes);
      }
    }
  }
#pragma GCC unroll 12
  for (int c = 0; c < kColumns; ++c) {
    _mm512_store_si512(acc + c * kTilePair, sum[0][c]);
    _mm512_store_si512(acc + c * kTilePair + kTileRows, sum[1][c]);
  }
}

void TileDotAvx512(const TileDot& a) {
  int64_t c = 0;
  const auto run = [&](auto columns) {
    for (; c + columns() <= a.num_columns; c += columns()) {
      TileDotColumns<columns()>(a, a.columns + c * a.stride, a.acc + c * kTilePair);
    }
  };
  run(std::integral_constant<int, 12>());
  run(std::integral_constant<int, 8>());
  run(std::integral_constant<int, 4>());
  run(std::integral_constant<int, 1>());
}

// Rows of the two halves of a tile, as unpacking dwords leaves them in their 128-bit lanes: 0 1, 4
// 5, 8 9, 12 13 and 2 3, 6 7, 10 11, 14 15. A lane has two rows of eight columns.
__attribute__((target("avx512vbmi"))) inline void LookUp(const uint8_t* table, int window,
                                                         const __m512i* words,
                                                         __m512i (*sum)[4][2]) {
  const __m512i low0 = _mm512_loadu_si512(table), low1 = _mm512_loadu_si512(table + 64);
  const __m512i high0 = _mm512_loadu_si512(table + 128), high1 = _mm512_loadu_si512(table + 192);
#pragma GCC unroll 4
  for (int g = 0; g < 4; ++g) {
    // Bit offsets of the windows of quads 2 g and 2 g + 1: columns i, 8 + i, 16 + i, 24 + i.
    const int first = 32 - (kWindowSigns - 1) - kWindowSigns * window + 2 * g;
    const __m512i offsets = _mm512_set1_epi64(static_cast<int64_t>(
        0x1911090118100800u + 0x0101010101010101u * static_cast<uint64_t>(first)));
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const __m512i index = _mm512_multishift_epi64_epi8(offsets, words[half]);
      const __m512i low = _mm512_permutex2var_epi8(low0, index, low1);
      const __m512i high = _mm512_permutex2var_epi8(high0, index, high1);
      sum[half][g][0] = _mm512_add_epi16(sum[half][g][0], _mm512_unpacklo_epi8(low, high));
      sum[half][g][1] = _mm512_add_epi16(sum[half][g][1], _mm512_unpackhi_epi8(low, high));
    }
  }
}

// Packed halves of quads 2 g and 2 g + 1 -> two quads of sixteen rows.
inline void StoreQuads(const __m512i* packed, int8_t* out) {
  const __m512i even = _mm512_setr_epi32(0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30);
  const __m512i odd = _mm512_setr_epi32(1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31);
  const __m512i bias = _mm512_set1_epi8(-128);
  _mm512_store_si512(out,
                     _mm512_xor_si512(_mm512_permutex2var_epi32(packed[0], even, packed[1]), bias));
  _mm512_store_si512(out + kQuadBytes,
                     _mm512_xor_si512(_mm512_permutex2var_epi32(packed[0], odd, packed[1]), bias));
}

__attribute__((target("avx512vbmi"))) void ExpandVbmi(const ExpandTile& a) {
  const __m512i half_step = _mm512_set1_epi16(128), byte = _mm512_set1_epi16(255);
  for (int64_t b = a.begin; b < a.end; ++b) {
    __m512i sum[2][4][2];
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
#pragma GCC unroll 4
      for (int g = 0; g < 4; ++g) sum[half][g][0] = sum[half][g][1] = _mm512_setzero_si512();
    }
    for (int i = 0; i < a.num_stages; ++i) {
      const ExpandStage& stage = a.stages[i];
      const uint8_t* table = stage.tables;
      for (int s = 0; s < stage.stored + stage.derived_streams; ++s) {
        const StreamWords stream = WordsOf(stage, a, b, s);
        const __m512i low = _mm512_loadu_si512(stream.before),
                      high = _mm512_loadu_si512(stream.now);
        const __m512i words[2] = {_mm512_unpacklo_epi32(low, high),
                                  _mm512_unpackhi_epi32(low, high)};
        for (int window = 0; window < stage.windows; ++window, table += 256) {
          LookUp(table, window, words, sum);
        }
      }
    }
    const int64_t at = (b - a.begin) * 8 * kQuadBytes;
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) {
      __m512i packed[2];
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        const __m512i* w = sum[half][g];
        packed[half] = _mm512_packs_epi16(_mm512_srai_epi16(_mm512_add_epi16(w[0], half_step), 8),
                                          _mm512_srai_epi16(_mm512_add_epi16(w[1], half_step), 8));
      }
      StoreQuads(packed, a.high + at + 2 * g * kQuadBytes);
      if (a.low == nullptr) continue;
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        const __m512i* w = sum[half][g];
        packed[half] =
            _mm512_packus_epi16(_mm512_and_si512(w[0], byte), _mm512_and_si512(w[1], byte));
      }
      StoreQuads(packed, a.low + at + 2 * g * kQuadBytes);
    }
  }
}
