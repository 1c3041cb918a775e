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
#include "kernels/cpu/table.inl.h"
// clang-format on

}  // namespace

const Kernels& Avx512Kernels() {
  static constexpr Kernels kTable = [] {
    Kernels k = SharedKernels(CpuIsa::kAvx512Vnni, "avx512-vnni");
    k.sign_dot = SignDotAvx512;
    k.tile_bias = 128;
    k.window_signs = kNibbleSigns;
    k.expand = ExpandByNibbles<NibblesAvx2<128>>;
    k.tile_dot = TileDotAvx512;
    return k;
  }();
  return kTable;
}

const Kernels& Avx512GfniKernels() {
  static constexpr Kernels kTable = [] {
    Kernels k = SharedKernels(CpuIsa::kAvx512Vnni, "avx512-vnni+gfni");
    k.derive = DeriveGfni;
    k.sign_dot = SignDotAvx512;
    k.sign_dot_fused = SignDotFusedGfni;
    k.lookups = {2, 2, 64, kLookupBytes, LooksUp, MakeLookup, SignLookupGfni};
    k.tile_bias = 128;
    k.expand = ExpandVbmi;
    k.tile_dot = TileDotAvx512;
    return k;
  }();
  return kTable;
}

}  // namespace lift::cpu
