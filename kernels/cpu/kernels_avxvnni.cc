// The table for AVX2 with FMA and AVX-VNNI. Only this file is compiled for it, and everything in it
// has internal linkage, so no code of it can reach a CPU without it.
#include <immintrin.h>

#include <cstdint>
#include <type_traits>
#include <utility>

#include "kernels/cpu/kernel_table.h"
#include "kernels/format/parity_masks.h"

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
#include "kernels/cpu/table.inl.h"
// clang-format on

}  // namespace

const Kernels& AvxVnniKernels() {
  static constexpr Kernels kTable = [] {
    Kernels k = SharedKernels(CpuIsa::kAvxVnni, "avx-vnni");
    k.sign_dot = SignDotAvxVnni;
    k.lookups = kLookupsAvx2;
    k.lookups.most = 16;  // beyond that vpdpbusd is as fast for some codes
    k.tile_bias = 128;
    k.window_signs = kNibbleSigns;
    k.expand = ExpandByNibbles<NibblesAvx2<128>>;
    k.tile_dot = TileDotAvxVnni;
    return k;
  }();
  return kTable;
}

}  // namespace lift::cpu
