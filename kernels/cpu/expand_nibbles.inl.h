// Decoding row tiles with byte look-ups. Byte k of a row's word holds columns 8 k to 8 k + 7, as
// byte k of a quad's row does: four signs in a row are a nibble of every byte of the shifted word,
// and a register of rows looks its nibbles up at once. Written once over Ops, a register of kRows
// rows:
//   Nibbles(now, before, right)  the words of kRows rows shifted right (left and filled from the
//                                words before, if negative), the 4 low bits of every byte
//   Table(bytes), LookUp(table, index), Add(low, high, sum)  16 entries; sum[2] of 16 bits
//   Store(sum, high, low)        kRows rows of a quad; low may be null

constexpr int kNibbleSigns = 4;                                 // Kernels::window_signs
constexpr int kMaxShifts = 8 + kMaxExpandSteps - kNibbleSigns;  // of a stream's words
constexpr int kNibbleTable = 32;  // low bytes of the 16 sums of a window, then high ones

// The nibbles of a register of rows: entry `shift` of [kMaxShifts] for quad 7 is entry shift + 7 -
// i for quad i.
template <class Ops>
inline void ShiftWords(const StreamWords& words, int part, int count, typename Ops::Bytes* out) {
  for (int i = 0; i < count; ++i) {
    out[i] = Ops::Nibbles(words.now + Ops::kRows * part, words.before + Ops::kRows * part,
                          8 - kNibbleSigns - i);
  }
}

// Adds a stage of one block to sums [8 quads][parts][2].
template <class Ops>
inline void AddNibbles(const ExpandStage& stage, const typename Ops::Bytes* shifted,
                       typename Ops::Sums* sums) {
  constexpr int kParts = kTileRows / Ops::kRows;
  for (int quad = 0; quad < 8; ++quad, sums += 2 * kParts) {
    typename Ops::Sums sum[2 * kParts];
#pragma GCC unroll 8
    for (int i = 0; i < 2 * kParts; ++i) sum[i] = sums[i];
    const uint8_t* table = stage.tables;
    for (int s = 0; s < stage.stored + stage.derived_streams; ++s) {
      const typename Ops::Bytes* nibbles = shifted + s * kParts * kMaxShifts + (7 - quad);
      for (int n = 0; n < stage.windows; ++n, table += kNibbleTable, nibbles += kNibbleSigns) {
        const auto low = Ops::Table(table), high = Ops::Table(table + 16);
#pragma GCC unroll 4
        for (int part = 0; part < kParts; ++part) {
          const typename Ops::Bytes index = nibbles[part * kMaxShifts];
          Ops::Add(Ops::LookUp(low, index), Ops::LookUp(high, index), sum + 2 * part);
        }
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < 2 * kParts; ++i) sums[i] = sum[i];
  }
}

template <class Ops>
void ExpandByNibbles(const ExpandTile& a) {
  constexpr int kParts = kTileRows / Ops::kRows;
  typename Ops::Sums sums[8 * kParts * 2];
  typename Ops::Bytes shifted[kMaxStreams * kParts * kMaxShifts];
  for (int64_t b = a.begin; b < a.end; ++b) {
    for (auto& sum : sums) sum = Ops::Zero();
    for (int i = 0; i < a.num_stages; ++i) {
      const ExpandStage& stage = a.stages[i];
      const int count = 8 + kNibbleSigns * (stage.windows - 1);
      for (int s = 0; s < stage.stored + stage.derived_streams; ++s) {
        const StreamWords words = WordsOf(stage, a, b, s);
        for (int part = 0; part < kParts; ++part)
          ShiftWords<Ops>(words, part, count, shifted + (kParts * s + part) * kMaxShifts);
      }
      AddNibbles<Ops>(stage, shifted, sums);
    }
    const int64_t at = (b - a.begin) * 8 * kQuadBytes;
    for (int i = 0; i < 8 * kParts; ++i) {
      const int64_t to = at + 4 * Ops::kRows * i;
      Ops::Store(sums + 2 * i, a.high + to, a.low == nullptr ? nullptr : a.low + to);
    }
  }
}
