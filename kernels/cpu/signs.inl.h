// What every instruction set shares of the sign kernels: parity by shifts, combining, row decoding.

// The columns before block 0 are the row's last ones (circular windows).
inline const uint32_t* PlaneWords(const uint8_t* planes, int stored, int64_t blocks, int64_t block,
                                  int stream) {
  const int64_t b = block < 0 ? block + blocks : block;
  return reinterpret_cast<const uint32_t*>(planes + (b * stored + stream) * kTileBytes);
}

// Calls dot(columns, tile, first) for every tile, the columns from `first` on up to four at a time;
// `columns` is a compile-time constant.
template <class Dot>
inline void ByFours(int64_t num_columns, int tiles, int64_t first, const Dot& dot) {
  for (; first < num_columns; first += 4) {
    for (int tile = 0; tile < tiles; ++tile) {
      switch (num_columns - first) {
        case 1:
          dot(std::integral_constant<int, 1>(), tile, first);
          break;
        case 2:
          dot(std::integral_constant<int, 2>(), tile, first);
          break;
        case 3:
          dot(std::integral_constant<int, 3>(), tile, first);
          break;
        default:
          dot(std::integral_constant<int, 4>(), tile, first);
          break;
      }
    }
  }
}

// Derived words by two shifts, an OR and an XOR for each tap.
void DeriveByShifts(const DeriveTile& a) {
  const ParityTables& tables = *a.tables;
  uint32_t* out = reinterpret_cast<uint32_t*>(a.out);
  for (int64_t block = a.begin; block < a.end; ++block) {
    for (int k = 0; k < tables.derived; ++k, out += kTileRows) {
      uint32_t q[kTileRows] = {};
      for (int i = tables.begin[k]; i < tables.begin[k + 1]; ++i) {
        const int shift = tables.taps[i].shift, stream = tables.taps[i].stream;
        const uint32_t* now = PlaneWords(a.planes, a.stored, a.blocks, block, stream);
        const uint32_t* before = PlaneWords(a.planes, a.stored, a.blocks, block - 1, stream);
        // Split in two shifts so that shift 0 stays defined.
        for (int r = 0; r < kTileRows; ++r) {
          q[r] ^= (now[r] << shift) | ((before[r] >> 1) >> (31 - shift));
        }
      }
      for (int r = 0; r < kTileRows; ++r) out[r] = q[r];
    }
  }
}

void Combine(const SignCombine& a) {
  if (a.low == nullptr) {
    for (int64_t r = 0; r < a.rows; ++r) {
      a.y[r] += a.coefficient * static_cast<float>(2 * a.high[r] - a.high_sum);
    }
    return;
  }
  for (int64_t r = 0; r < a.rows; ++r) {
    // Exact in double (below 2^45), then one rounding to float.
    const double high = 2 * a.high[r] - a.high_sum, low = 2 * a.low[r] - a.low_sum;
    a.y[r] += a.coefficient * static_cast<float>(128 * high + low);
  }
}

// Bit words of all streams of one row, stored ones first.
inline void RowWords(const DecodeStageRow& a) {
  const LiftCode& code = *a.code;
  const int64_t blocks = a.padded / kTileColumns;
  for (int r = 0; r < code.stored; ++r) {
    for (int64_t b = 0; b < blocks; ++b) {
      a.words[r * blocks + b] = PlaneWords(a.planes, code.stored, blocks, b, r)[a.row_in_tile];
    }
  }
  for (int k = 0; k < code.derived; ++k) {
    uint32_t* out = a.words + (code.stored + k) * blocks;
    for (int64_t b = 0; b < blocks; ++b) out[b] = 0;
    const uint64_t mask = code.masks.data()[k];
    for (int bit = 0; bit < 64; ++bit) {
      if ((mask >> bit & 1) == 0) continue;
      const int shift = bit / code.streams();
      const uint32_t* in = a.words + bit % code.streams() * blocks;
      for (int64_t b = 0; b < blocks; ++b) {
        const uint32_t before = in[b == 0 ? blocks - 1 : b - 1];
        out[b] ^= (in[b] << shift) | ((before >> 1) >> (31 - shift));
      }
    }
  }
}

void DecodeRow(const DecodeStageRow& a) {
  const LiftCode& code = *a.code;
  const int64_t history = code.steps - 1, stride = history + a.padded;
  RowWords(a);
  for (int r = 0; r < code.streams(); ++r) {
    const uint32_t* words = a.words + r * (a.padded / kTileColumns);
    float* bits = a.bits + r * stride;
    for (int64_t t = 0; t < a.padded; ++t) {
      bits[history + t] = (words[t / 32] >> (t % 32) & 1) != 0 ? 1.0f : -1.0f;
    }
    for (int64_t i = 1; i <= history; ++i) {
      bits[history - i] = bits[history + a.padded - 1 - (i - 1) % a.padded];
    }
  }
  for (int64_t t = 0; t < a.padded; ++t) a.sum[t] = 0.0f;
  for (int m = 0; m < code.steps; ++m) {
    for (int r = 0; r < code.streams(); ++r) {
      const float tap = code.taps.data()[m * code.streams() + r];
      const float* bits = a.bits + r * stride + history - m;
      for (int64_t t = 0; t < a.padded; ++t) a.sum[t] += tap * bits[t];
    }
  }
  for (int64_t t = 0; t < a.padded; ++t) a.v[t] += a.gain * a.sum[t];
}
