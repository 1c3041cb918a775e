// The table for AVX2 with FMA. Only this file is compiled for it, and everything in it has internal
// linkage, so no code of it can reach a CPU without it.
#include <immintrin.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cpu/kernel_table.h"

namespace lift::cpu {
namespace {

// Each uses the ones before.
// clang-format off
#include "kernels/cpu/simd_avx2.inl.h"
#include "kernels/cpu/shared_kernels.inl.h"
#include "kernels/cpu/signs_avx2.inl.h"
#include "kernels/cpu/signs_lookup_avx2.inl.h"
#include "kernels/cpu/expand_nibbles.inl.h"
#include "kernels/cpu/expand_avx2.inl.h"
#include "kernels/cpu/tiles_avx2.inl.h"
// clang-format on

}  // namespace

const Kernels& Avx2Kernels() {
  static constexpr Kernels kTable = {
      CpuIsa::kAvx2,
      "avx2",
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
      SignDotAvx2,
      nullptr,
      {4, kLookupTableBytes, LooksUpAvx2, MakeLookupAvx2, SignLookupAvx2},
      Combine,
      ScaleRows,
      DecodeRow,
      ConvKernel,
      ScanKernel,
      0,
      ExpandByNibbles<NibblesAvx2<0>>,
      TileDotAvx2,
      CombineTiles};
  return kTable;
}

}  // namespace lift::cpu
