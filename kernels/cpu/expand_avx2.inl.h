// Decoding row tiles with vpshufb. Byte k of a row's word holds columns 8 k to 8 k + 7, as byte k
// of a quad's row does: four signs in a row are a nibble of every byte of the shifted word, and
// eight rows look up 32 of them at once.

constexpr int kNibbleSigns = 4;
constexpr int kMaxNibbles = kMaxExpandSteps / kNibbleSigns;       // windows of a stream
constexpr int kMaxShifts = 8 + kNibbleSigns * (kMaxNibbles - 1);  // of a stream's words
constexpr int kNibbleTable = 32;  // low bytes of the 16 sums of a window, then high ones

// A stage's tables by four signs, [stream][nibbles][kNibbleTable].
struct NibbleStage {
  int streams = 0, nibbles = 0;
  const uint8_t* tables = nullptr;
};

// What the sign `back` columns back adds, from the tables by kWindowSigns.
inline int UnitOf(const uint8_t* stream, int back) {
  const uint8_t* table = stream + back / kWindowSigns * 256;
  const auto sum = [&](int index) {
    return static_cast<int>(static_cast<int16_t>(table[index] | table[128 + index] << 8));
  };
  return (sum(127) - sum(127 ^ 1 << (kWindowSigns - 1 - back % kWindowSigns))) / 2;
}

// Returns where the next stage's tables go.
inline uint8_t* MakeNibbles(const ExpandStage& stage, uint8_t* out, NibbleStage& nibbles) {
  int units[kMaxStreams][kMaxExpandSteps] = {};
  int steps = 1;
  nibbles.streams = stage.stored + stage.derived_streams;
  for (int s = 0; s < nibbles.streams; ++s) {
    for (int m = 0; m < kWindowSigns * stage.windows; ++m) {
      units[s][m] = UnitOf(stage.tables + s * stage.windows * 256, m);
      if (units[s][m] != 0 && m >= steps) steps = m + 1;
    }
  }
  nibbles.nibbles = (steps + kNibbleSigns - 1) / kNibbleSigns;
  nibbles.tables = out;
  for (int s = 0; s < nibbles.streams; ++s) {
    for (int n = 0; n < nibbles.nibbles; ++n, out += kNibbleTable) {
      for (int index = 0; index < 16; ++index) {
        int sum = 0;
        for (int bit = 0; bit < kNibbleSigns; ++bit) {
          const int unit = units[s][kNibbleSigns * n + kNibbleSigns - 1 - bit];
          sum += (index >> bit & 1) != 0 ? unit : -unit;
        }
        out[index] = static_cast<uint8_t>(sum & 255);
        out[16 + index] = static_cast<uint8_t>(sum >> 8 & 255);
      }
    }
  }
  return out;
}

// The nibbles of 8 rows whose newest sign is `shift` - 4 columns before each of a quad's: entry
// `shift` of [kMaxShifts] for quad 0 is entry shift - i for quad i.
inline void ShiftWords(const StreamWords& words, int half, int count, __m256i* out) {
  const __m256i low4 = _mm256_set1_epi8(15);
  const __m256i now = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words.now + 8 * half)),
                before =
                    _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words.before + 8 * half));
  for (int i = 0; i < count; ++i) {
    const int right = 8 - kNibbleSigns - i;
    const __m256i word =
        right >= 0 ? _mm256_srl_epi32(now, _mm_cvtsi32_si128(right))
                   : _mm256_or_si256(_mm256_sll_epi32(now, _mm_cvtsi32_si128(-right)),
                                     _mm256_srl_epi32(before, _mm_cvtsi32_si128(32 + right)));
    out[i] = _mm256_and_si256(word, low4);
  }
}

// Adds a stage of one block to sums [8 quads][2 halves][2].
inline void AddNibbles(const NibbleStage& stage, const __m256i* shifted, __m256i* sums) {
  for (int quad = 0; quad < 8; ++quad, sums += 4) {
    __m256i sum[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) sum[i] = _mm256_load_si256(sums + i);
    const uint8_t* table = stage.tables;
    for (int s = 0; s < stage.streams; ++s) {
      const __m256i* nibbles = shifted + s * 2 * kMaxShifts + (7 - quad);
      for (int n = 0; n < stage.nibbles; ++n, table += kNibbleTable, nibbles += kNibbleSigns) {
        const __m256i low = _mm256_broadcastsi128_si256(
                          _mm_load_si128(reinterpret_cast<const __m128i*>(table))),
                      high = _mm256_broadcastsi128_si256(
                          _mm_load_si128(reinterpret_cast<const __m128i*>(table + 16)));
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
          const __m256i index = _mm256_load_si256(nibbles + half * kMaxShifts);
          const __m256i l = _mm256_shuffle_epi8(low, index), h = _mm256_shuffle_epi8(high, index);
          sum[2 * half] = _mm256_add_epi16(sum[2 * half], _mm256_unpacklo_epi8(l, h));
          sum[2 * half + 1] = _mm256_add_epi16(sum[2 * half + 1], _mm256_unpackhi_epi8(l, h));
        }
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) _mm256_store_si256(sums + i, sum[i]);
  }
}

template <int kBias>
inline void StoreBytes(__m256i bytes, int8_t* out) {
  if constexpr (kBias != 0) bytes = _mm256_xor_si256(bytes, _mm256_set1_epi8(-128));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), bytes);
}

// The sums of one block's 8 quads to bytes of a quad's rows.
template <int kBias>
inline void StoreSums(const __m256i* sums, int8_t* high, int8_t* low) {
  const __m256i half_step = _mm256_set1_epi16(128), byte = _mm256_set1_epi16(255);
  for (int i = 0; i < 16; ++i, sums += 2) {  // quads and their halves
    const __m256i rounded[2] = {_mm256_srai_epi16(_mm256_add_epi16(sums[0], half_step), 8),
                                _mm256_srai_epi16(_mm256_add_epi16(sums[1], half_step), 8)};
    StoreBytes<kBias>(_mm256_packs_epi16(rounded[0], rounded[1]), high + 32 * i);
    if (low == nullptr) continue;
    StoreBytes<kBias>(
        _mm256_packus_epi16(_mm256_and_si256(sums[0], byte), _mm256_and_si256(sums[1], byte)),
        low + 32 * i);
  }
}

// kBias: Kernels::tile_bias.
template <int kBias>
void ExpandAvx2(const ExpandTile& a) {
  alignas(32) uint8_t tables[kMaxExpandStages * kMaxStreams * kMaxNibbles * kNibbleTable];
  NibbleStage nibbles[kMaxExpandStages];
  uint8_t* next = tables;
  for (int i = 0; i < a.num_stages; ++i) next = MakeNibbles(a.stages[i], next, nibbles[i]);
  __m256i sums[8 * 4], shifted[kMaxStreams * 2 * kMaxShifts];
  for (int64_t b = a.begin; b < a.end; ++b) {
    for (__m256i& sum : sums) sum = _mm256_setzero_si256();
    for (int i = 0; i < a.num_stages; ++i) {
      const int count = 8 + kNibbleSigns * (nibbles[i].nibbles - 1);
      for (int s = 0; s < nibbles[i].streams; ++s) {
        const StreamWords words = WordsOf(a.stages[i], a, b, s);
        for (int half = 0; half < 2; ++half)
          ShiftWords(words, half, count, shifted + (2 * s + half) * kMaxShifts);
      }
      AddNibbles(nibbles[i], shifted, sums);
    }
    const int64_t at = (b - a.begin) * 8 * kQuadBytes;
    StoreSums<kBias>(sums, a.high + at, a.low == nullptr ? nullptr : a.low + at);
  }
}
