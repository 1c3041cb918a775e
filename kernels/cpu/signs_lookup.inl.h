// Sign planes times one or two int8 columns by tables: a 16-bit word of a plane's row is three
// indices (5, 5 and 6 signs) into sums of u that vpermw looks up, 32 rows at a time: 20
// instructions for 1,024 signs instead of 32. The tables are sixteen times u, so it pays where
// arithmetic and not memory is short: codes with as many derived streams as stored ones.

constexpr int kLookupWords = 256;  // of a block and stream: twice (32, 32, 64) sums
constexpr int kLookupBytes = 2 * kLookupWords;

// out[mask] = sum of u[i] over the bits of mask, for 5 values.
inline __m512i SumsOf5(const int16_t* u) {
  constexpr __mmask32 kBit[5] = {0xAAAAAAAA, 0xCCCCCCCC, 0xF0F0F0F0, 0xFF00FF00, 0xFFFF0000};
  __m512i sums = _mm512_setzero_si512();
  for (int i = 0; i < 5; ++i) {
    sums = _mm512_mask_add_epi16(sums, kBit[i], sums, _mm512_set1_epi16(u[i]));
  }
  return sums;
}

void MakeLookup(const int8_t* column, int64_t words, int16_t* out) {
  for (int64_t w = 0; w < words; ++w, column += kTileColumns, out += kLookupWords) {
    // Column 8 j + i is byte 4 i + j.
    int16_t u[kTileColumns];
    for (int i = 0; i < 8; ++i) {
      for (int j = 0; j < 4; ++j) u[8 * j + i] = column[4 * i + j];
    }
    for (int half = 0; half < 2; ++half) {
      const int16_t* x = u + 16 * half;
      int16_t* to = out + half * kLookupWords / 2;
      const __m512i last = SumsOf5(x + 10);
      _mm512_store_si512(to, SumsOf5(x));
      _mm512_store_si512(to + 32, SumsOf5(x + 5));
      _mm512_store_si512(to + 64, last);
      _mm512_store_si512(to + 96, _mm512_add_epi16(last, _mm512_set1_epi16(x[15])));
    }
  }
}

// One stored stream and one derived from it, of two or four row tiles. Tiles are taken in pairs: a
// register has the words of one half of a block, of an even tile in its even lanes, of an odd one
// in its odd lanes.
template <int kColumns, int kPairs>
__attribute__((target("gfni,avx512vbmi2"))) void LookUp(const SignLookup& a) {
  constexpr int kTiles = 2 * kPairs;
  constexpr int64_t kFlush = 4;  // blocks: 16-bit sums of 64 signs times at most 127 hold so many
  const uint8_t* plane[kTiles];
  __m512i sum[kColumns][kPairs];
#pragma GCC unroll 4
  for (int i = 0; i < kTiles; ++i) {
    plane[i] = a.planes[i];
    for (int c = 0; c < kColumns; ++c) {
      _mm512_store_si512(a.acc + c * kLookupRows + i * kTileRows, _mm512_setzero_si512());
    }
  }
  int64_t offset = 0;
  const auto add_half = [&](const __m512i* x, int64_t at) __attribute__((always_inline)) {
    const __m512i second = _mm512_set1_epi16(1 << 11), third = _mm512_set1_epi16(1 << 6);
    __m512i x2[kPairs], x3[kPairs];
#pragma GCC unroll 2
    for (int p = 0; p < kPairs; ++p) {  // shifts, on the multipliers' ports
      x2[p] = _mm512_mulhi_epu16(x[p], second);
      x3[p] = _mm512_mulhi_epu16(x[p], third);
    }
#pragma GCC unroll 2
    for (int c = 0; c < kColumns; ++c) {
      const int16_t* t = a.tables[c] + at;
      const __m512i t1 = _mm512_load_si512(t), t2 = _mm512_load_si512(t + 32),
                    t3 = _mm512_load_si512(t + 64), t4 = _mm512_load_si512(t + 96);
#pragma GCC unroll 2
      for (int p = 0; p < kPairs; ++p) {
        const __m512i two = _mm512_add_epi16(_mm512_permutexvar_epi16(x[p], t1),
                                             _mm512_permutexvar_epi16(x2[p], t2));
        const __m512i three = _mm512_add_epi16(two, _mm512_permutex2var_epi16(t3, x3[p], t4));
        sum[c][p] = _mm512_add_epi16(sum[c][p], three);
      }
    }
  };
  const auto add = [&](const __m512i* w) __attribute__((always_inline)) {
    constexpr __mmask32 kOdd = 0xAAAAAAAA;
    __m512i low[kPairs], high[kPairs];
#pragma GCC unroll 2
    for (int p = 0; p < kPairs; ++p) {
      const __m512i even = w[2 * p], odd = w[2 * p + 1];
      low[p] = _mm512_mask_blend_epi16(kOdd, even, _mm512_slli_epi32(odd, 16));
      high[p] = _mm512_mask_blend_epi16(kOdd, _mm512_srli_epi32(even, 16), odd);
    }
    add_half(low, offset);
    add_half(high, offset + kLookupWords / 2);
    offset += kLookupWords;
  };
  const int64_t row_bytes = a.blocks * kTileBytes;
  for (int64_t b = 0; b < a.blocks;) {
    const int64_t end = b + kFlush < a.blocks ? b + kFlush : a.blocks;
#pragma GCC unroll 2
    for (int c = 0; c < kColumns; ++c) {
#pragma GCC unroll 2
      for (int p = 0; p < kPairs; ++p) sum[c][p] = _mm512_setzero_si512();
    }
    for (; b < end; ++b) {
      // Beyond a tile's end come the tiles that are read with it, then the same one of the next.
      const bool inside = b * kTileBytes + kPrefetchBytes < row_bytes;
      const int64_t ahead = kPrefetchBytes + (inside ? 0 : (kTiles - 1) * row_bytes);
      const int64_t back = b == 0 ? row_bytes - kTileBytes : -kTileBytes;
      __m512i w[kTiles], q[1][kTiles];
#pragma GCC unroll 4
      for (int i = 0; i < kTiles; ++i) {
        w[i] = _mm512_loadu_si512(plane[i]);
        _mm_prefetch(reinterpret_cast<const char*>(plane[i]) + ahead, _MM_HINT_T0);
        __m512i before = _mm512_loadu_si512(plane[i] + back);  // registers are short
        DeriveWords<1>(*a.parity, 0, w[i], before, i, q);
        plane[i] += kTileBytes;
      }
      add(w);
      add(q[0]);
    }
    const __m512i even = _mm512_set1_epi32(1), odd = _mm512_set1_epi32(1 << 16);
#pragma GCC unroll 2
    for (int c = 0; c < kColumns; ++c) {
#pragma GCC unroll 4
      for (int i = 0; i < kTiles; ++i) {
        int32_t* acc = a.acc + c * kLookupRows + i * kTileRows;
        _mm512_store_si512(acc, _mm512_dpwssd_epi32(_mm512_load_si512(acc), sum[c][i / 2],
                                                    i % 2 == 0 ? even : odd));
      }
    }
  }
}

bool LooksUp(const LiftCode& code) { return code.stored == 1 && code.derived == 1; }

void SignLookupGfni(const SignLookup& a) {
  if (a.num_columns == 1) return a.pairs == 1 ? LookUp<1, 1>(a) : LookUp<1, 2>(a);
  a.pairs == 1 ? LookUp<2, 1>(a) : LookUp<2, 2>(a);
}
