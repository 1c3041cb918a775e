// The table for any CPU.
#include <cstdint>
#include <type_traits>

#include "kernels/base/float16.h"
#include "kernels/cpu/kernel_table.h"

namespace lift::cpu {
namespace {

// Each uses the ones before.
// clang-format off
#include "kernels/cpu/simd_portable.inl.h"
#include "kernels/cpu/shared_kernels.inl.h"
// clang-format on

void ScaleRows(const uint16_t* scale, int64_t rows, float* y) {
  for (int64_t r = 0; r < rows; ++r) y[r] *= HalfToFloat(scale[r]);
}

void SignDotPortable(const SignDot& a) {
  const int streams = a.stored + a.derived_streams;
  for (int64_t c = 0; c < a.num_columns; ++c) {
    for (int tile = 0; tile < a.tiles; ++tile) {
      int32_t acc[kTileRows] = {};
      for (int64_t b = a.begin; b < a.end; ++b) {
        for (int s = 0; s < streams; ++s) {
          const int8_t* u = a.columns[c] + (b * streams + s) * kTileColumns;
          const uint8_t* at =
              s < a.stored ? a.planes[tile] + (b * a.stored + s) * kTileBytes
                           : a.derived[tile] +
                                 ((b - a.begin) * a.derived_streams + s - a.stored) * kTileBytes;
          uint32_t words[kTileRows];
          __builtin_memcpy(words, at, kTileBytes);
          for (int t = 0; t < kTileColumns; ++t) {
            const int32_t value = u[4 * (t % 8) + t / 8];
            for (int r = 0; r < kTileRows; ++r) {
              acc[r] += -static_cast<int32_t>(words[r] >> t & 1) & value;
            }
          }
        }
      }
      for (int r = 0; r < kTileRows; ++r) a.acc[c * kTilePair + tile * kTileRows + r] += acc[r];
    }
  }
}

// Adds one stage of row `row` of block `block` to w [32].
void ExpandRow(const ExpandStage& stage, const ExpandTile& tile, int64_t block, int row,
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
        a.high[to] = static_cast<int8_t>(high);
        if (a.low != nullptr) a.low[to] = static_cast<int8_t>(w[t] - 256 * high);
      }
    }
  }
}

void TileDotPortable(const TileDot& a) {
  for (int64_t c = 0; c < a.num_columns; ++c) {
    for (int tile = 0; tile < 2; ++tile) {
      int32_t* acc = a.acc + c * kTilePair + tile * kTileRows;
      const int8_t* w = a.tiles[tile];
      const int8_t* x = a.columns + c * a.stride;
      for (int64_t quad = 0; quad < 8 * a.blocks; ++quad, w += kQuadBytes, x += 4) {
        for (int r = 0; r < kTileRows; ++r) {
          for (int j = 0; j < 4; ++j) acc[r] += int32_t{w[4 * r + j]} * x[j];
        }
      }
    }
  }
}

#include "kernels/cpu/table.inl.h"

}  // namespace

const Kernels& PortableKernels() {
  static constexpr Kernels kTable = [] {
    Kernels k = SharedKernels(CpuIsa::kPortable, "portable");
    k.sign_dot = SignDotPortable;
    k.expand = ExpandByRows;
    k.tile_dot = TileDotPortable;
    return k;
  }();
  return kTable;
}

}  // namespace lift::cpu
