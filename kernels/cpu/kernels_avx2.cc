// The table for AVX2 with FMA. Only this file is compiled for it, and everything in it has internal
// linkage, so no code of it can reach a CPU without it.
#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/kernel_table.h"

namespace lift::cpu {
namespace {

#include "kernels/cpu/simd_avx2.inl.h"
// The order of these matters: each uses the ones before.
#include "kernels/cpu/attention.inl.h"
#include "kernels/cpu/gemm.inl.h"
#include "kernels/cpu/lift.inl.h"
#include "kernels/cpu/signs.inl.h"
#include "kernels/cpu/signs_avx2.inl.h"
#include "kernels/cpu/vector_ops.inl.h"

}  // namespace

const Kernels& Avx2Kernels() {
  static constexpr Kernels kTable = {CpuIsa::kAvx2, "avx2",    RmsNormRow,     AddInPlace,
                                     SwiGluRange,   RopeToken, PackPanel,      PanelMatmulKernel,
                                     Attend,        Rotate,    LiftSlotKernel, DeriveByShifts,
                                     SignDotAvx2,   Combine,   DecodeRow};
  return kTable;
}

}  // namespace lift::cpu
