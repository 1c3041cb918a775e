// Sign planes times int8 on AArch64. A tile is four registers of four rows. `cmtst` turns bit i of
// every byte into -1 or 0, so a signed dot product takes u away wherever a sign is set; the sums
// are subtracted at the end.

template <int kColumns>
void DotTile(const SignDot& a, int tile, int64_t first) {
  const int streams = a.stored + a.derived_streams;
  int32x4_t acc[kColumns][4];
  for (int c = 0; c < kColumns; ++c) {
    for (int g = 0; g < 4; ++g) acc[c][g] = vdupq_n_s32(0);
  }
  const uint8_t* plane = a.planes[tile] + a.begin * a.stored * kTileBytes;
  const uint8_t* derived = a.derived[tile];
  int64_t offset = a.begin * streams * kTileColumns;
  for (int64_t b = a.begin; b < a.end; ++b) {
    for (int s = 0; s < streams; ++s, offset += kTileColumns) {
      const uint8_t*& words = s < a.stored ? plane : derived;
      uint8x16_t w[4];
      for (int g = 0; g < 4; ++g) w[g] = vld1q_u8(words + 16 * g);
      words += kTileBytes;
      int8x16_t u[kColumns][2];
      for (int c = 0; c < kColumns; ++c) {
        u[c][0] = vld1q_s8(a.columns[first + c] + offset);
        u[c][1] = vld1q_s8(a.columns[first + c] + offset + 16);
      }
      const auto bit = [&](auto index) {
        constexpr int kBit = decltype(index)::value;
        const uint8x16_t mask = vdupq_n_u8(1 << kBit);
        for (int g = 0; g < 4; ++g) {
          const int8x16_t set = vreinterpretq_s8_u8(vtstq_u8(w[g], mask));
          for (int c = 0; c < kColumns; ++c) {
            acc[c][g] = vdotq_laneq_s32(acc[c][g], set, u[c][kBit / 4], kBit % 4);
          }
        }
      };
      [&]<int... kBits>(std::integer_sequence<int, kBits...>) {
        (bit(std::integral_constant<int, kBits>()), ...);
      }
      (std::make_integer_sequence<int, 8>());
    }
  }
  for (int c = 0; c < kColumns; ++c) {
    for (int g = 0; g < 4; ++g) {
      int32_t* sum = a.acc + (first + c) * kTilePair + tile * kTileRows + 4 * g;
      vst1q_s32(sum, vsubq_s32(vld1q_s32(sum), acc[c][g]));
    }
  }
}

#if defined(__ARM_FEATURE_MATMUL_INT8)

// Rows 8 * half to 8 * half + 7 of a tile against pairs of columns, by 2 x 8 times 8 x 2 products:
// two bits of a row's four bytes lie side by side, as u keeps them.
template <int kPairs>
void DotPairs(const SignDot& a, int tile, int half, int64_t first) {
  const int streams = a.stored + a.derived_streams;
  int32x4_t acc[kPairs][4];  // [rows 2 r, 2 r + 1] x [column 0, column 1]
  for (int p = 0; p < kPairs; ++p) {
    for (int r = 0; r < 4; ++r) acc[p][r] = vdupq_n_s32(0);
  }
  const uint8_t* plane = a.planes[tile] + a.begin * a.stored * kTileBytes + 32 * half;
  const uint8_t* derived = a.derived[tile] + 32 * half;
  int64_t offset = a.begin * streams * kTileColumns;
  for (int64_t b = a.begin; b < a.end; ++b) {
    for (int s = 0; s < streams; ++s, offset += kTileColumns) {
      const uint8_t*& words = s < a.stored ? plane : derived;
      const uint8x16_t w[2] = {vld1q_u8(words), vld1q_u8(words + 16)};
      words += kTileBytes;
      for (int bit = 0; bit < 8; bit += 2) {
        int8x16_t set[4];
        for (int g = 0; g < 2; ++g) {
          const auto one = vtstq_u8(w[g], vdupq_n_u8(static_cast<uint8_t>(1 << bit)));
          const auto two = vtstq_u8(w[g], vdupq_n_u8(static_cast<uint8_t>(2 << bit)));
          const auto x = vreinterpretq_s32_u8(one), y = vreinterpretq_s32_u8(two);
          set[2 * g] = vreinterpretq_s8_s32(vzip1q_s32(x, y));
          set[2 * g + 1] = vreinterpretq_s8_s32(vzip2q_s32(x, y));
        }
        for (int p = 0; p < kPairs; ++p) {
          const int8_t* const* u = a.columns + first + 2 * p;
          const int8x16_t both =
              vcombine_s8(vld1_s8(u[0] + offset + 4 * bit), vld1_s8(u[1] + offset + 4 * bit));
          for (int r = 0; r < 4; ++r) acc[p][r] = vmmlaq_s32(acc[p][r], set[r], both);
        }
      }
    }
  }
  for (int p = 0; p < kPairs; ++p) {
    for (int r = 0; r < 4; ++r) {
      int32_t sums[4];
      vst1q_s32(sums, acc[p][r]);
      int32_t* to = a.acc + (first + 2 * p) * kTilePair + tile * kTileRows + 8 * half + 2 * r;
      to[0] -= sums[0], to[kTilePair] -= sums[1], to[1] -= sums[2], to[kTilePair + 1] -= sums[3];
    }
  }
}

// As many columns as go in pairs of four; the number of columns done.
int64_t DotByMatrices(const SignDot& a) {
  int64_t first = 0;
  for (; first + 4 <= a.num_columns; first += 4) {
    const bool eight = first + 8 <= a.num_columns;
    for (int tile = 0; tile < a.tiles; ++tile) {
      for (int half = 0; half < 2; ++half) {
        (eight ? DotPairs<4> : DotPairs<2>)(a, tile, half, first);
      }
    }
    if (eight) first += 4;
  }
  return first;
}

#else

int64_t DotByMatrices(const SignDot&) { return 0; }

#endif

void SignDotNeon(const SignDot& a) {
  ByFours(a.num_columns, a.tiles, DotByMatrices(a),
          [&](auto columns, int tile, int64_t first) { DotTile<columns()>(a, tile, first); });
}

void ScaleRows(const uint16_t* scale, int64_t rows, float* y) {
  for (int64_t r = 0; r < rows; r += 4) {
    const int64_t n = rows - r < 4 ? rows - r : 4;
    uint16_t halves[4] = {};
    float values[4];
    for (int64_t i = 0; i < n; ++i) halves[i] = scale[r + i];
    vst1q_f32(values, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(halves))));
    for (int64_t i = 0; i < n; ++i) y[r + i] *= values[i];
  }
}
