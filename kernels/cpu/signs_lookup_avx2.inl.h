// Sign planes times a few int8 columns by tables: four signs of a row are an index that vpshufb
// looks up for 32 rows at a time. The words of two row tiles are turned to bytes first: a register
// then has one byte of all 32 rows, and each of its nibbles a table. A sum of four int8 plus 512 is
// split in 5 low and 5 high bits, so that eight of either still fit a byte.

// GCC 12 reorders the sums until they no longer fit the registers: a third of the time.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC optimize("no-tree-reassoc", "no-tree-ter")
#endif

constexpr int kNibbleBias = 512;
constexpr int kLowBits = 5;
constexpr int kLookupTableBytes = 8 * 32;  // of a word: [byte][nibble][low, high][16]
// Words whose 16-bit sums are held: 8 * 8 * (4 * 127 + 512) < 2^16.
constexpr int kWordsBeforeFlush = 8;
#ifndef PFA
#define PFA 1024
#endif
constexpr int64_t kPrefetchAhead = PFA;  // bytes of a tile

// The table of byte k's nibble `nibble`: sums of 16 subsets plus the bias, low and high bits.
inline __m256i SumsOf4(const int8_t* u, int k, int nibble) {
  const __m256i subsets = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  __m256i sums = _mm256_set1_epi16(kNibbleBias);
  for (int j = 0; j < 4; ++j) {
    const __m256i bit = _mm256_set1_epi16(static_cast<int16_t>(1 << j));
    const __m256i taken = _mm256_cmpeq_epi16(_mm256_and_si256(subsets, bit), bit);
    const __m256i value = _mm256_set1_epi16(u[4 * (4 * nibble + j) + k]);
    sums = _mm256_add_epi16(sums, _mm256_and_si256(taken, value));
  }
  const __m256i low = _mm256_and_si256(sums, _mm256_set1_epi16((1 << kLowBits) - 1));
  const __m256i both = _mm256_packus_epi16(low, _mm256_srli_epi16(sums, kLowBits));
  return _mm256_permute4x64_epi64(both, 0xD8);
}

void MakeLookupAvx2(const int8_t* column, int64_t words, int16_t* out) {
  auto* to = reinterpret_cast<__m256i*>(out);
  for (int64_t w = 0; w < words; ++w, column += kTileColumns) {
    for (int k = 0; k < 4; ++k) {
      _mm256_store_si256(to++, SumsOf4(column, k, 0));
      _mm256_store_si256(to++, SumsOf4(column, k, 1));
    }
  }
}

// The shifts at which a mask (as in LiftCode) takes a stored stream: a bit for each.
constexpr int TapsOf(uint64_t mask, int stored, int stream) {
  int taps = 0;
  for (int shift = 0; shift <= kMaxShift; ++shift)
    taps |= static_cast<int>(mask >> (shift * (stored + 1) + stream) & 1) << shift;
  return taps;
}

// What the nibble `back` nibbles ago adds to a derived nibble, of all sixteen.
struct NibbleMap {
  alignas(16) uint8_t to[16] = {};
  constexpr NibbleMap(int taps, int back) {
    for (int nibble = 0; nibble < 16; ++nibble) {
      for (int shift = 0; shift <= kMaxShift; ++shift) {
        if ((taps >> shift & 1) == 0) continue;
        const int left = shift - 4 * back;
        to[nibble] ^= static_cast<uint8_t>((left >= 0 ? nibble << left : nibble >> -left) & 15);
      }
    }
  }
  constexpr bool IsOf(int factor) const {  // 0: adds nothing; 1: the nibble itself
    for (int nibble = 0; nibble < 16; ++nibble) {
      if (to[nibble] != factor * nibble) return false;
    }
    return true;
  }
};

constexpr int kNibbles = 8;                 // of a word
constexpr int kBack = (kMaxShift + 3) / 4;  // nibbles a derived one looks back
constexpr int kKept = kNibbles + kBack;     // of a word and the end of the one before

template <int kTaps, int kAgo>
__attribute__((always_inline)) inline void AddMapped(__m256i nibble, __m256i* sum) {
  static constexpr NibbleMap kMap(kTaps, kAgo);
  if constexpr (kMap.IsOf(1)) {
    *sum = _mm256_xor_si256(*sum, nibble);
  } else if constexpr (!kMap.IsOf(0)) {
    const __m256i map =
        _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(kMap.to)));
    *sum = _mm256_xor_si256(*sum, _mm256_shuffle_epi8(map, nibble));
  }
}

// derived[8] from the nibbles [kKept] of each stored stream.
template <int kStored, uint64_t kMask, size_t... kStream>
__attribute__((always_inline)) inline void DeriveNibbles(const __m256i (*stored)[kKept],
                                                         __m256i* derived,
                                                         std::index_sequence<kStream...>) {
#pragma GCC unroll 8
  for (int i = 0; i < kNibbles; ++i) {
    derived[i] = _mm256_setzero_si256();
    const auto add = [&]<int kTaps>(const __m256i* nibble) __attribute__((always_inline)) {
      AddMapped<kTaps, 0>(nibble[kBack], &derived[i]);
      AddMapped<kTaps, 1>(nibble[kBack - 1], &derived[i]);
      AddMapped<kTaps, 2>(nibble[kBack - 2], &derived[i]);
    };
    (add.template operator()<TapsOf(kMask, kStored, kStream)>(stored[kStream] + i), ...);
  }
}

// nibble[8] of the words of two tiles. Lane 0: rows 0-3 and 8-11 of the first, then of the second
// tile; lane 1: rows 4-7 and 12-15.
__attribute__((always_inline)) inline void TurnToNibbles(const uint8_t* const* planes,
                                                         __m256i* nibble) {
  const __m256i order = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 0, 4,
                                         8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  __m256i low[2], high[2];  // bytes 0 and 1, bytes 2 and 3 of a tile
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const auto* words = reinterpret_cast<const __m256i*>(planes[i]);
    const __m256i a = _mm256_shuffle_epi8(_mm256_loadu_si256(words), order),
                  b = _mm256_shuffle_epi8(_mm256_loadu_si256(words + 1), order);
    low[i] = _mm256_unpacklo_epi32(a, b);
    high[i] = _mm256_unpackhi_epi32(a, b);
  }
  const __m256i bytes[4] = {
      _mm256_unpacklo_epi64(low[0], low[1]), _mm256_unpackhi_epi64(low[0], low[1]),
      _mm256_unpacklo_epi64(high[0], high[1]), _mm256_unpackhi_epi64(high[0], high[1])};
  const __m256i low4 = _mm256_set1_epi8(15);
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    nibble[2 * k] = _mm256_and_si256(bytes[k], low4);
    nibble[2 * k + 1] = _mm256_and_si256(_mm256_srli_epi16(bytes[k], 4), low4);
  }
}

// sum[tile] += the sums of one word's tables.
__attribute__((always_inline)) inline void AddLookups(const int16_t* tables, const __m256i* nibble,
                                                      __m256i* sum) {
  const auto* t = reinterpret_cast<const __m128i*>(tables);
  __m256i low = _mm256_setzero_si256(), high = low;
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const __m256i low_table = _mm256_broadcastsi128_si256(_mm_load_si128(t + 2 * i)),
                  high_table = _mm256_broadcastsi128_si256(_mm_load_si128(t + 2 * i + 1));
    low = _mm256_add_epi8(low, _mm256_shuffle_epi8(low_table, nibble[i]));
    high = _mm256_add_epi8(high, _mm256_shuffle_epi8(high_table, nibble[i]));
  }
  const __m256i weights = _mm256_set1_epi16(1 | 1 << (kLowBits + 8));
  sum[0] = _mm256_add_epi16(sum[0], _mm256_maddubs_epi16(_mm256_unpacklo_epi8(low, high), weights));
  sum[1] = _mm256_add_epi16(sum[1], _mm256_maddubs_epi16(_mm256_unpackhi_epi8(low, high), weights));
}

// acc[16] += the sums of a tile.
__attribute__((always_inline)) inline void FlushLookups(__m256i sum, int32_t* acc) {
  const __m256i even = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(sum)),
                odd = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(sum, 1));
  AddTo(acc, _mm256_permute2x128_si256(even, odd, 0x20));
  AddTo(acc + 8, _mm256_permute2x128_si256(even, odd, 0x31));
}

// kMask: of the derived stream; 0: there is none.
template <int kStored, uint64_t kMask, int kColumns>
void LookUpTiles(const SignLookup& a) {
  constexpr int kStreams = kStored + (kMask != 0 ? 1 : 0);
  constexpr int64_t kBlocks = kWordsBeforeFlush / kStreams;  // between flushes
  constexpr int64_t kWordEntries = kLookupTableBytes / static_cast<int64_t>(sizeof(int16_t));
  constexpr int64_t kBlockBytes = kStored * kTileBytes;
  const int tiles = 2 * a.pairs;
  const int64_t row_bytes = a.blocks * kBlockBytes;
  const auto bias = static_cast<int32_t>(-8 * kNibbleBias * a.blocks * kStreams);
  for (int c = 0; c < kColumns; ++c) {
    for (int r = 0; r < tiles * kTileRows; ++r) a.acc[c * kLookupRows + r] = bias;
  }
  // The nibbles that the next block's derived ones look back at; rows are circles.
  __m256i ends[kLookupRows / kTileRows / 2][kStored][kBack];
  for (int pair = 0; kMask != 0 && pair < a.pairs; ++pair) {
    for (int s = 0; s < kStored; ++s) {
      const int64_t at = row_bytes - kBlockBytes + s * kTileBytes;
      const uint8_t* planes[2] = {a.planes[2 * pair] + at, a.planes[2 * pair + 1] + at};
      __m256i nibble[kNibbles];
      TurnToNibbles(planes, nibble);
      for (int i = 0; i < kBack; ++i) ends[pair][s][i] = nibble[kNibbles - kBack + i];
    }
  }
  for (int64_t b = 0; b < a.blocks; b += kBlocks) {
    const int64_t end = b + kBlocks < a.blocks ? b + kBlocks : a.blocks;
    // Beyond a tile's end come the tiles that are read with it, then the same one of the next.
    const bool inside = end * kBlockBytes + kPrefetchAhead <= row_bytes;
    const int64_t ahead = kPrefetchAhead + (inside ? 0 : (tiles - 1) * row_bytes);
    for (int tile = 0; tile < tiles; tile += 2) {
      __m256i sum[kColumns][2];
      for (int c = 0; c < kColumns; ++c) sum[c][0] = sum[c][1] = _mm256_setzero_si256();
      for (int64_t at = b; at < end; ++at) {
        __m256i stored[kStored][kKept];
#pragma GCC unroll 4
        for (int s = 0; s < kStored; ++s) {
          const int64_t offset = at * kBlockBytes + s * kTileBytes;
          const uint8_t* planes[2] = {a.planes[tile] + offset, a.planes[tile + 1] + offset};
#pragma GCC unroll 2
          for (int i = 0; i < 2; ++i)
            _mm_prefetch(reinterpret_cast<const char*>(planes[i]) + ahead, _MM_HINT_T0);
          TurnToNibbles(planes, stored[s] + kBack);
#pragma GCC unroll 4
          for (int c = 0; c < kColumns; ++c)
            AddLookups(a.tables[c] + (at * kStreams + s) * kWordEntries, stored[s] + kBack, sum[c]);
        }
        if constexpr (kMask != 0) {
#pragma GCC unroll 4
          for (int s = 0; s < kStored; ++s) {
#pragma GCC unroll 2
            for (int i = 0; i < kBack; ++i) {
              stored[s][i] = ends[tile / 2][s][i];
              ends[tile / 2][s][i] = stored[s][kNibbles + i];
            }
          }
          // Else GCC keeps more nibbles in registers than there are.
          asm volatile("" ::: "memory");
          __m256i derived[kNibbles];
          DeriveNibbles<kStored, kMask>(stored, derived, std::make_index_sequence<kStored>());
#pragma GCC unroll 4
          for (int c = 0; c < kColumns; ++c)
            AddLookups(a.tables[c] + (at * kStreams + kStored) * kWordEntries, derived, sum[c]);
        }
      }
      for (int c = 0; c < kColumns; ++c) {
        for (int i = 0; i < 2; ++i)
          FlushLookups(sum[c][i], a.acc + c * kLookupRows + (tile + i) * kTileRows);
      }
    }
  }
}

template <int kStored, uint64_t kMask>
void LookUpColumns(const SignLookup& a) {
  switch (a.num_columns) {
    case 1:
      return LookUpTiles<kStored, kMask, 1>(a);
    case 2:
      return LookUpTiles<kStored, kMask, 2>(a);
    case 3:
      return LookUpTiles<kStored, kMask, 3>(a);
    default:
      return LookUpTiles<kStored, kMask, 4>(a);
  }
}

// The codes this is compiled for: those that calibration makes.
struct LookUpCode {
  int stored;
  uint64_t mask;  // 0: nothing is derived
  void (*sum)(const SignLookup& a);
};
constexpr LookUpCode kLookUpCodes[] = {
    {1, 0, LookUpColumns<1, 0>}, {1, kParityMasks[1], LookUpColumns<1, kParityMasks[1]>},
    {2, 0, LookUpColumns<2, 0>}, {2, kParityMasks[2], LookUpColumns<2, kParityMasks[2]>},
    {3, 0, LookUpColumns<3, 0>}, {3, kParityMasks[3], LookUpColumns<3, kParityMasks[3]>},
    {4, 0, LookUpColumns<4, 0>}, {4, kParityMasks[4], LookUpColumns<4, kParityMasks[4]>},
};

const LookUpCode* FindLookUp(const LiftCode& code) {
  for (const LookUpCode& known : kLookUpCodes) {
    if (known.stored != code.stored || code.derived != (known.mask == 0 ? 0 : 1)) continue;
    if (code.derived == 0 || code.masks.data()[0] == known.mask) return &known;
  }
  return nullptr;
}

bool LooksUpAvx2(const LiftCode& code) { return FindLookUp(code) != nullptr; }

void SignLookupAvx2(const SignLookup& a) { FindLookUp(*a.code)->sum(a); }

constexpr SignLookups kLookupsAvx2 = {
    4, 32, kLookupRows, kLookupTableBytes, LooksUpAvx2, MakeLookupAvx2, SignLookupAvx2};

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC pop_options
#endif
