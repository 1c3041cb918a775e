// The table for AVX2 with FMA and AVX-VNNI. Only this file is compiled for it, and everything in it
// has internal linkage, so no code of it can reach a CPU without it.
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
#include "kernels/cpu/signs_avxvnni.inl.h"
#include "kernels/cpu/expand_nibbles.inl.h"
#include "kernels/cpu/expand_avx2.inl.h"
#include "kernels/cpu/tiles_avxvnni.inl.h"
// clang-format on

}  // namespace

const Kernels& AvxVnniKernels() {
  static constexpr Kernels kTable = {
      CpuIsa::kAvxVnni,
      "avx-vnni",
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
      SignDotAvxVnni,
      nullptr,
      {4, kLookupTableBytes, LooksUpAvx2, MakeLookupAvx2, SignLookupAvx2},
      Combine,
      ScaleRows,
      DecodeRow,
      ConvKernel,
      ScanKernel,
      128,
      ExpandByNibbles<NibblesAvx2<128>>,
      TileDotAvxVnni,
      CombineTiles};
  return kTable;
}

}  // namespace lift::cpu
