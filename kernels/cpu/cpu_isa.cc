#include "kernels/base/check.h"
#include "kernels/cpu/kernel_table.h"

namespace lift {

std::string_view CpuIsaName(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kAuto:
      return "auto";
    case CpuIsa::kPortable:
      return "portable";
    case CpuIsa::kAvx2:
      return "avx2";
    case CpuIsa::kAvx512Vnni:
      return "avx512-vnni";
  }
  return "unknown";
}

bool CpuIsaSupported(CpuIsa isa) {
  if (isa == CpuIsa::kAuto || isa == CpuIsa::kPortable) return true;
#if defined(LIFT_CPU_X86)
  // Every CPU with AVX2 also converts binary16 (F16C), which clang cannot ask for.
  if (isa == CpuIsa::kAvx2) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  }
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

CpuIsa BestCpuIsa() {
  for (const CpuIsa isa : {CpuIsa::kAvx512Vnni, CpuIsa::kAvx2}) {
    if (CpuIsaSupported(isa)) return isa;
  }
  return CpuIsa::kPortable;
}

namespace cpu {

const Kernels& KernelsFor(CpuIsa isa) {
  LIFT_CHECK(CpuIsaSupported(isa));
  if (isa == CpuIsa::kAuto) isa = BestCpuIsa();
#if defined(LIFT_CPU_X86)
  if (isa == CpuIsa::kAvx2) return Avx2Kernels();
  if (isa == CpuIsa::kAvx512Vnni) {
    const bool gfni = __builtin_cpu_supports("gfni") && __builtin_cpu_supports("avx512vbmi2");
    return gfni ? Avx512GfniKernels() : Avx512Kernels();
  }
#endif
  return PortableKernels();
}

}  // namespace cpu
}  // namespace lift
