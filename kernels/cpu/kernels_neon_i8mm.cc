// The table for Armv8.6 with int8 matrix products; see kernels_neon_dotprod.cc.
#include <arm_neon.h>

#include <cstdint>
#include <type_traits>
#include <utility>

#include "kernels/cpu/kernel_table.h"

namespace lift::cpu {
namespace {

// Each uses the ones before.
// clang-format off
#include "kernels/cpu/simd_neon.inl.h"
#include "kernels/cpu/shared_kernels.inl.h"
#include "kernels/cpu/signs_neon.inl.h"
#include "kernels/cpu/expand_nibbles.inl.h"
#include "kernels/cpu/expand_neon.inl.h"
#include "kernels/cpu/tiles_neon.inl.h"
#include "kernels/cpu/table.inl.h"
// clang-format on

}  // namespace

const Kernels& NeonI8mmKernels() {
  static constexpr Kernels kTable = [] {
    Kernels k = SharedKernels(CpuIsa::kNeonI8mm, "neon-i8mm");
    k.sign_dot = SignDotNeon;
    k.window_signs = kNibbleSigns;
    k.expand = ExpandByNibbles<NibblesNeon>;
    k.tile_dot = TileDotNeon;
    return k;
  }();
  return kTable;
}

}  // namespace lift::cpu
