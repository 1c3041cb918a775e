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

}  // namespace

const Kernels& PortableKernels() {
  static constexpr Kernels kTable = {
      CpuIsa::kPortable, "portable",      RmsNormRow,  LayerNormRow, AddInPlace,
      SwiGluRange,       GeluRange,       RopeToken,   PackPanel,    PanelMatmulKernel,
      StoreKvRow,        Attend,          AttendMerge, Rotate,       LiftSlotKernel,
      DeriveByShifts,    SignDotPortable, nullptr,     {},           Combine,
      ScaleRows,         DecodeRow,       ConvKernel,  ScanKernel,   0,
      ExpandByRows<0>,   TileDotPortable, CombineTiles};
  return kTable;
}

}  // namespace lift::cpu
