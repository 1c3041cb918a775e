// The table for AVX-512 with VNNI. Only this file is compiled for it, and everything in it has
// internal linkage, so no code of it can reach a CPU without it.
#include <immintrin.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cpu/kernel_table.h"

namespace lift::cpu {
namespace {

// Each uses the ones before.
// clang-format off
#include "kernels/cpu/simd_avx512.inl.h"
#include "kernels/cpu/shared_kernels.inl.h"
#include "kernels/cpu/signs_avx512.inl.h"
#include "kernels/cpu/signs_lookup.inl.h"
#include "kernels/cpu/expand_nibbles.inl.h"
#include "kernels/cpu/expand_avx2.inl.h"
#include "kernels/cpu/tiles_avx512.inl.h"
// clang-format on

}  // namespace

const Kernels& Avx512Kernels() {
  static constexpr Kernels kTable = {CpuIsa::kAvx512Vnni,
                                     "avx512-vnni",
                                     RmsNormRow,
                                     LayerNormRow,
                                     AddInPlace,
                                     SwiGluRange,
                                     GeluRange,
                                     RopeToken,
                                     PackPanel,
                                     PanelMatmulKernel,
                                     StoreKvRow,
                                     Attend,
                                     AttendMerge,
                                     Rotate,
                                     LiftSlotKernel,
                                     DeriveByShifts,
                                     SignDotAvx512,
                                     nullptr,
                                     {},
                                     Combine,
                                     ScaleRows,
                                     DecodeRow,
                                     ConvKernel,
                                     ScanKernel,
                                     128,
                                     ExpandByNibbles<NibblesAvx2<128>>,
                                     TileDotAvx512,
                                     CombineTiles};
  return kTable;
}

const Kernels& Avx512GfniKernels() {
  static constexpr Kernels kTable = {CpuIsa::kAvx512Vnni,
                                     "avx512-vnni+gfni",
                                     RmsNormRow,
                                     LayerNormRow,
                                     AddInPlace,
                                     SwiGluRange,
                                     GeluRange,
                                     RopeToken,
                                     PackPanel,
                                     PanelMatmulKernel,
                                     StoreKvRow,
                                     Attend,
                                     AttendMerge,
                                     Rotate,
                                     LiftSlotKernel,
                                     DeriveGfni,
                                     SignDotAvx512,
                                     SignDotFusedGfni,
                                     {2, kLookupBytes, LooksUp, MakeLookup, SignLookupGfni},
                                     Combine,
                                     ScaleRows,
                                     DecodeRow,
                                     ConvKernel,
                                     ScanKernel,
                                     128,
                                     ExpandVbmi,
                                     TileDotAvx512,
                                     CombineTiles};
  return kTable;
}

}  // namespace lift::cpu
