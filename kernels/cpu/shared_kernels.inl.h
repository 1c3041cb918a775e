// The kernels that every instruction set compiles for itself, on top of its simd_*.inl.h.
// clang-format off: each uses the ones before.
#include "kernels/cpu/vector_ops.inl.h"
#include "kernels/cpu/gemm.inl.h"
#include "kernels/cpu/attention.inl.h"
#include "kernels/cpu/lift.inl.h"
#include "kernels/cpu/signs.inl.h"
// clang-format on
