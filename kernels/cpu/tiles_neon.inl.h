// Decoded tiles times int8 with sdot: a quad of a tile is four registers of four rows.

template <int kColumns>
void TileDotColumns(const TileDot& a, int tile, int64_t first) {
  int32x4_t sum[kColumns][4];
  for (int c = 0; c < kColumns; ++c) {
    for (int g = 0; g < 4; ++g) sum[c][g] = vdupq_n_s32(0);
  }
  const int8_t* w = a.tiles[tile];
  const int8_t* x = a.columns + first * a.stride;
  for (int64_t quads = 0; quads < 2 * a.blocks; ++quads, w += 4 * kQuadBytes, x += 16) {
    int8x16_t bytes[kColumns];
    for (int c = 0; c < kColumns; ++c) bytes[c] = vld1q_s8(x + c * a.stride);
    const auto quad = [&](auto index) {
      constexpr int kQuad = decltype(index)::value;
      for (int g = 0; g < 4; ++g) {
        const int8x16_t rows = vld1q_s8(w + kQuad * kQuadBytes + 16 * g);
        for (int c = 0; c < kColumns; ++c) {
          sum[c][g] = vdotq_laneq_s32(sum[c][g], rows, bytes[c], kQuad);
        }
      }
    };
    [&]<int... kQuads>(std::integer_sequence<int, kQuads...>) {
      (quad(std::integral_constant<int, kQuads>()), ...);
    }
    (std::make_integer_sequence<int, 4>());
  }
  for (int c = 0; c < kColumns; ++c) {
    for (int g = 0; g < 4; ++g) {
      int32_t* acc = a.acc + (first + c) * kTilePair + tile * kTileRows + 4 * g;
      vst1q_s32(acc, vaddq_s32(vld1q_s32(acc), sum[c][g]));
    }
  }
}

void TileDotNeon(const TileDot& a) {
  ByFours(a.num_columns, 2, 0, [&](auto columns, int tile, int64_t first) {
    TileDotColumns<columns()>(a, tile, first);
  });
}
