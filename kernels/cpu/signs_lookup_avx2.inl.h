// Sign planes times a few int8 columns by tables: four signs of a row are an index that vpshufb
// looks up for 32 rows at a time. Words are turned to bytes first: a register then has one byte of
// all sixteen rows in each half, and that byte's two nibbles have tables of their own. A sum of
// four int8 plus 512 is split in 6 low and 4 high bits, so that four of either still fit a byte.

constexpr int kNibbleBias = 512;
constexpr int kLookupTableBytes = 8 * 32;  // of a word: [byte pair][nibble][low, high][2][16]
// Words whose 16-bit sums are held: 8 * (252 + 64 * 60) < 2^15.
constexpr int kWordsBeforeFlush = 8;
constexpr int64_t kPrefetchAhead = 1024;  // bytes of a tile

// The tables of byte k's nibble `nibble`, as sums of 16 subsets plus the bias.
inline __m256i SumsOf4(const int8_t* u, int k, int nibble) {
  const __m256i subsets = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  __m256i sums = _mm256_set1_epi16(kNibbleBias);
  for (int j = 0; j < 4; ++j) {
    const __m256i bit = _mm256_set1_epi16(static_cast<int16_t>(1 << j));
    const __m256i taken = _mm256_cmpeq_epi16(_mm256_and_si256(subsets, bit), bit);
    const __m256i value = _mm256_set1_epi16(u[4 * (4 * nibble + j) + k]);
    sums = _mm256_add_epi16(sums, _mm256_and_si256(taken, value));
  }
  return sums;
}

void MakeLookupAvx2(const int8_t* column, int64_t words, int16_t* out) {
  const __m256i low6 = _mm256_set1_epi16(63);
  auto* to = reinterpret_cast<__m256i*>(out);
  for (int64_t w = 0; w < words; ++w, column += kTileColumns) {
    for (int pair = 0; pair < 2; ++pair) {
      for (int nibble = 0; nibble < 2; ++nibble) {
        const __m256i a = SumsOf4(column, 2 * pair, nibble),
                      b = SumsOf4(column, 2 * pair + 1, nibble);
        const __m256i low =
            _mm256_packus_epi16(_mm256_and_si256(a, low6), _mm256_and_si256(b, low6));
        const __m256i high = _mm256_packus_epi16(_mm256_srli_epi16(a, 6), _mm256_srli_epi16(b, 6));
        _mm256_store_si256(to++, _mm256_permute4x64_epi64(low, 0xD8));
        _mm256_store_si256(to++, _mm256_permute4x64_epi64(high, 0xD8));
      }
    }
  }
}

// A derived stream's taps by shift: the stored streams that are shifted alike are added first.
struct ShiftedTaps {
  int count = 0;  // of shifts above 0
  int at[kMaxShift] = {}, shift[kMaxShift] = {};
  int unshifted = 0;  // a bit for each stored stream, as in `at`
  // Of the code's only derived stream, if it has one.
  explicit ShiftedTaps(const LiftCode& code) {
    if (code.derived == 0) return;
    for (int s = 0; s <= kMaxShift; ++s) {
      const auto streams = static_cast<int>(code.masks.data()[0] >> (s * code.streams()) &
                                            ((1u << code.stored) - 1));
      if (s == 0) {
        unshifted = streams;
      } else if (streams != 0) {
        at[count] = streams;
        shift[count++] = s;
      }
    }
  }
};

// Sixteen rows' words of one stream.
struct TileWords {
  __m256i half[2];
};

inline TileWords LoadWords(const uint8_t* plane) {
  const auto* p = reinterpret_cast<const __m256i*>(plane);
  return {{_mm256_loadu_si256(p), _mm256_loadu_si256(p + 1)}};
}

// sums[set] = XOR of the streams in the set.
template <int kStored>
__attribute__((always_inline)) inline void AddStreams(const uint8_t* plane, TileWords* sums) {
  sums[0].half[0] = sums[0].half[1] = _mm256_setzero_si256();
#pragma GCC unroll 4
  for (int s = 0; s < kStored; ++s) {
    const TileWords words = LoadWords(plane + s * kTileBytes);
    const int sets = 1 << s;  // UBSan's check of the shift would keep the loop from unrolling
#pragma GCC unroll 8
    for (int set = 0; set < sets; ++set) {
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h)
        sums[set | 1 << s].half[h] = _mm256_xor_si256(sums[set].half[h], words.half[h]);
    }
  }
}

// ShiftedTaps ready for the shifts.
template <int kTaps>
struct TapShifts {
  int unshifted;
  int at[kTaps];
  __m128i left[kTaps], right[kTaps];
  explicit TapShifts(const ShiftedTaps& taps) : unshifted(taps.unshifted) {
    for (int i = 0; i < kTaps; ++i) {
      at[i] = taps.at[i];
      left[i] = _mm_cvtsi32_si128(taps.shift[i]);
      right[i] = _mm_cvtsi32_si128(32 - taps.shift[i]);
    }
  }
};

template <int kStored, int kTaps>
__attribute__((always_inline)) inline TileWords Derive(const TapShifts<kTaps>& taps,
                                                       const TileWords* now,
                                                       const TileWords* before) {
  // One stored stream: it is in every tap.
  TileWords q = now[kStored == 1 ? 1 : taps.unshifted];
#pragma GCC unroll 7
  for (int i = 0; i < kTaps; ++i) {
    const int at = kStored == 1 ? 1 : taps.at[i];
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const __m256i x = _mm256_sll_epi32(now[at].half[h], taps.left[i]),
                    y = _mm256_srl_epi32(before[at].half[h], taps.right[i]);
      q.half[h] = _mm256_xor_si256(q.half[h], _mm256_xor_si256(x, y));
    }
  }
  return q;
}

// Nibbles of the rows' bytes: low and high ones of bytes 0 and 1, then of bytes 2 and 3.
__attribute__((always_inline)) inline void Nibbles(const TileWords& words, __m256i* index) {
  const __m256i bytes = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 0, 4,
                                         8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m256i low4 = _mm256_set1_epi8(15);
  const __m256i a = _mm256_shuffle_epi8(words.half[0], bytes),
                b = _mm256_shuffle_epi8(words.half[1], bytes);
  const __m256i pairs[2] = {_mm256_permute4x64_epi64(_mm256_unpacklo_epi32(a, b), 0xD8),
                            _mm256_permute4x64_epi64(_mm256_unpackhi_epi32(a, b), 0xD8)};
  for (int i = 0; i < 2; ++i) {
    index[2 * i] = _mm256_and_si256(pairs[i], low4);
    index[2 * i + 1] = _mm256_and_si256(_mm256_srli_epi16(pairs[i], 4), low4);
  }
}

// sum[2] += the sums of one word's tables: rows 0-3 and 8-11, rows 4-7 and 12-15.
__attribute__((always_inline)) inline void AddLookups(const int16_t* tables, const __m256i* index,
                                                      __m256i* sum) {
  const auto* t = reinterpret_cast<const __m256i*>(tables);
  __m256i low = _mm256_shuffle_epi8(_mm256_load_si256(t), index[0]),
          high = _mm256_shuffle_epi8(_mm256_load_si256(t + 1), index[0]);
#pragma GCC unroll 4
  for (int i = 1; i < 4; ++i) {
    low = _mm256_add_epi8(low, _mm256_shuffle_epi8(_mm256_load_si256(t + 2 * i), index[i]));
    high = _mm256_add_epi8(high, _mm256_shuffle_epi8(_mm256_load_si256(t + 2 * i + 1), index[i]));
  }
  const __m256i weights = _mm256_set1_epi16(1 | 64 << 8);
  sum[0] = _mm256_add_epi16(sum[0], _mm256_maddubs_epi16(_mm256_unpacklo_epi8(low, high), weights));
  sum[1] = _mm256_add_epi16(sum[1], _mm256_maddubs_epi16(_mm256_unpackhi_epi8(low, high), weights));
}

// acc[16] += the rows' sums of both halves of the registers.
__attribute__((always_inline)) inline void FlushLookups(const __m256i* sum, int32_t* acc) {
  __m256i wide[2];
  for (int i = 0; i < 2; ++i) {
    const __m128i both =
        _mm_add_epi16(_mm256_castsi256_si128(sum[i]), _mm256_extracti128_si256(sum[i], 1));
    wide[i] = _mm256_cvtepu16_epi32(both);
  }
  AddTo(acc, _mm256_permute2x128_si256(wide[0], wide[1], 0x20));
  AddTo(acc + 8, _mm256_permute2x128_si256(wide[0], wide[1], 0x31));
}

// kTaps: ShiftedTaps::count of the derived stream; -1: there is none.
template <int kStored, int kTaps, int kColumns>
void LookUpTiles(const SignLookup& a, const ShiftedTaps& shifted) {
  constexpr bool kDerives = kTaps >= 0;
  constexpr int kStreams = kStored + (kDerives ? 1 : 0);
  constexpr int64_t kBlocks = kWordsBeforeFlush / kStreams;  // between flushes
  constexpr int64_t kWordEntries = kLookupTableBytes / static_cast<int64_t>(sizeof(int16_t));
  constexpr int64_t kBlockBytes = kStored * kTileBytes;
  const int tiles = 2 * a.pairs;
  const TapShifts<kDerives ? kTaps : 1> taps(shifted);
  const int64_t row_bytes = a.blocks * kBlockBytes;
  const auto bias = static_cast<int32_t>(-8 * kNibbleBias * a.blocks * kStreams);
  for (int c = 0; c < kColumns; ++c) {
    for (int r = 0; r < tiles * kTileRows; ++r) a.acc[c * kLookupRows + r] = bias;
  }
  for (int64_t b = 0; b < a.blocks; b += kBlocks) {
    const int64_t end = b + kBlocks < a.blocks ? b + kBlocks : a.blocks;
    for (int tile = 0; tile < tiles; ++tile) {
      __m256i sum[kColumns][2];
      for (int c = 0; c < kColumns; ++c) sum[c][0] = sum[c][1] = _mm256_setzero_si256();
      const uint8_t* plane = a.planes[tile] + b * kBlockBytes;
      for (int64_t at = b; at < end; ++at, plane += kBlockBytes) {
        // Beyond a tile's end come the tiles that are read with it, then the same one of the next.
        const bool inside = at * kBlockBytes + kPrefetchAhead < row_bytes;
        const int64_t ahead = kPrefetchAhead + (inside ? 0 : (tiles - 1) * row_bytes);
#pragma GCC unroll 4
        for (int s = 0; s < kStored; ++s)
          _mm_prefetch(reinterpret_cast<const char*>(plane) + s * kTileBytes + ahead, _MM_HINT_T0);
        TileWords derived;
        if constexpr (kDerives) {
          TileWords now[1 << kStored], before[1 << kStored];
          AddStreams<kStored>(plane, now);
          AddStreams<kStored>(at == 0 ? plane + row_bytes - kBlockBytes : plane - kBlockBytes,
                              before);
          derived = Derive<kStored>(taps, now, before);
        }
#pragma GCC unroll 8
        for (int s = 0; s < kStreams; ++s) {
          __m256i index[4];
          Nibbles(s < kStored ? LoadWords(plane + s * kTileBytes) : derived, index);
          const int64_t word = at * kStreams + s;
#pragma GCC unroll 4
          for (int c = 0; c < kColumns; ++c)
            AddLookups(a.tables[c] + word * kWordEntries, index, sum[c]);
        }
      }
      for (int c = 0; c < kColumns; ++c)
        FlushLookups(sum[c], a.acc + c * kLookupRows + tile * kTileRows);
    }
  }
}

template <int kStored, int kTaps>
void LookUpColumns(const SignLookup& a, const ShiftedTaps& shifted) {
  switch (a.num_columns) {
    case 1:
      return LookUpTiles<kStored, kTaps, 1>(a, shifted);
    case 2:
      return LookUpTiles<kStored, kTaps, 2>(a, shifted);
    case 3:
      return LookUpTiles<kStored, kTaps, 3>(a, shifted);
    default:
      return LookUpTiles<kStored, kTaps, 4>(a, shifted);
  }
}

// The codes that calibration uses have four shifts.
template <int kStored>
void LookUpCode(const SignLookup& a) {
  const ShiftedTaps shifted(*a.code);
  if (a.code->derived == 0) return LookUpColumns<kStored, -1>(a, shifted);
  switch (shifted.count) {
    case 2:
      return LookUpColumns<kStored, 2>(a, shifted);
    case 3:
      return LookUpColumns<kStored, 3>(a, shifted);
    case 4:
      return LookUpColumns<kStored, 4>(a, shifted);
    default:
      return LookUpColumns<kStored, 5>(a, shifted);
  }
}

void SignLookupAvx2(const SignLookup& a) {
  switch (a.code->stored) {
    case 1:
      return LookUpCode<1>(a);
    case 2:
      return LookUpCode<2>(a);
    default:
      return LookUpCode<3>(a);
  }
}

// Codes that SignLookupAvx2 was compiled for.
bool LooksUpAvx2(const LiftCode& code) {
  if (code.stored > 3 || code.derived > 1) return false;
  if (code.derived == 0) return true;
  const ShiftedTaps taps(code);
  // One stored stream that is not in an unshifted tap: nobody makes such a code.
  return taps.count >= 2 && taps.count <= 5 && (code.stored > 1 || taps.unshifted != 0);
}

constexpr SignLookups kLookupsAvx2 = {4, kLookupTableBytes, LooksUpAvx2, MakeLookupAvx2,
                                      SignLookupAvx2};
