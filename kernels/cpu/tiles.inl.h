// What every instruction set shares of the way prompts are multiplied: decoding a row tile to
// integers and turning integer sums into outputs.

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
