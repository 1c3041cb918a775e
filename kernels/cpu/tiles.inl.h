// What every instruction set shares of the way prompts are multiplied: decoding a row tile to
// integers and turning integer sums into outputs.

template <int kBias>
inline int8_t TileByte(int32_t value) {
  return static_cast<int8_t>(value + kBias);
}

// The words of stream s of a stage in a block and in the one before it, a row each.
struct StreamWords {
  const uint32_t *now, *before;
};
inline StreamWords WordsOf(const ExpandStage& stage, const ExpandTile& tile, int64_t block, int s) {
  if (s < stage.stored) {
    return {PlaneWords(stage.planes, stage.stored, tile.blocks, block, s),
            PlaneWords(stage.planes, stage.stored, tile.blocks, block - 1, s)};
  }
  const auto* before =
      reinterpret_cast<const uint32_t*>(stage.derived) +
      ((block - tile.begin) * stage.derived_streams + s - stage.stored) * kTileRows;
  return {before + stage.derived_streams * kTileRows, before};
}

// Adds one stage of row `row` of block `block` to w [32].
inline void ExpandRow(const ExpandStage& stage, const ExpandTile& tile, int64_t block, int row,
                      int32_t* w) {
  const uint8_t* table = stage.tables;
  for (int s = 0; s < stage.stored + stage.derived_streams; ++s) {
    const StreamWords words = WordsOf(stage, tile, block, s);
    const uint64_t signs = uint64_t{words.now[row]} << 32 | words.before[row];
    for (int window = 0; window < stage.windows; ++window, table += 256) {
      const int shift = 32 - (kWindowSigns - 1) - kWindowSigns * window;
      for (int t = 0; t < kTileColumns; ++t) {
        const uint64_t index = signs >> (shift + t) & 127;
        w[t] += static_cast<int16_t>(table[index] | table[128 + index] << 8);
      }
    }
  }
}

template <int kBias>
void ExpandByRows(const ExpandTile& a) {
  for (int64_t b = a.begin; b < a.end; ++b) {
    const int64_t at = (b - a.begin) * 8 * kQuadBytes;
    for (int row = 0; row < kTileRows; ++row) {
      int32_t w[kTileColumns] = {};
      for (int i = 0; i < a.num_stages; ++i) {
        ExpandRow(a.stages[i], a, b, row, w);
      }
      for (int t = 0; t < kTileColumns; ++t) {
        const int64_t to = at + t % 8 * kQuadBytes + 4 * row + t / 8;
        const int32_t high = (w[t] + 128) >> 8;
        a.high[to] = TileByte<kBias>(high);
        if (a.low != nullptr) a.low[to] = TileByte<kBias>(w[t] - 256 * high);
      }
    }
  }
}

void CombineTiles(const TileCombine& a) {
  if (a.parts == 1) {
    const int32_t* acc = a.acc[0];
    const int32_t offset = a.offset[0];
    for (int64_t r = 0; r < a.rows; ++r) {
      a.y[r] = a.coefficient * static_cast<float>(acc[r] - offset) * a.row_scale[r];
    }
    return;
  }
  for (int64_t r = 0; r < a.rows; ++r) {
    double sum = 0;  // exact: below 2^53
    for (int i = 0; i < a.parts; ++i) sum += a.weight[i] * (a.acc[i][r] - a.offset[i]);
    a.y[r] = a.coefficient * static_cast<float>(sum) * a.row_scale[r];
  }
}
