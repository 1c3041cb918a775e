// The kernels that every instruction set compiles for itself, on top of its simd_*.inl.h. Each of
// these files uses the ones before it.
// clang-format off
#include "kernels/cpu/vector_ops.inl.h"
#include "kernels/cpu/recurrent.inl.h"
#include "kernels/cpu/gemm.inl.h"
#include "kernels/cpu/lift.inl.h"
#include "kernels/cpu/kv_cells.inl.h"
#include "kernels/cpu/attention.inl.h"
#include "kernels/cpu/signs.inl.h"
#include "kernels/cpu/tiles.inl.h"
// clang-format on
