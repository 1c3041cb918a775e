#if defined(LIFT_CPU_X86)
#include <cpuid.h>
#elif defined(LIFT_CPU_ARM64)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

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
    case CpuIsa::kAvxVnni:
      return "avx-vnni";
    case CpuIsa::kAvx512Vnni:
      return "avx512-vnni";
    case CpuIsa::kNeonDotprod:
      return "neon-dotprod";
    case CpuIsa::kNeonI8mm:
      return "neon-i8mm";
  }
  return "unknown";
}

std::optional<CpuIsa> CpuIsaNamed(std::string_view name) {
  if (name == CpuIsaName(CpuIsa::kAuto)) return CpuIsa::kAuto;
  for (const CpuIsa isa : kCpuIsas) {
    if (name == CpuIsaName(isa)) return isa;
  }
  return std::nullopt;
}

namespace {

#if defined(LIFT_CPU_X86)

bool HasAvxVnni() {  // CPUID leaf 7, subleaf 1: EAX bit 4; GCC 12 has no name for it
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 4 & 1) != 0;
}

bool Supported(CpuIsa isa) {
  // Every CPU with AVX2 also converts binary16 (F16C), which clang cannot ask for.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (isa == CpuIsa::kAvx2) return avx2;
  if (isa == CpuIsa::kAvxVnni) return avx2 && HasAvxVnni();
  if (isa != CpuIsa::kAvx512Vnni) return false;
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma");
}

// And the byte permutations that decoding prompts' tiles takes.
bool HasGfni() {
  return __builtin_cpu_supports("gfni") && __builtin_cpu_supports("avx512vbmi") &&
         __builtin_cpu_supports("avx512vbmi2");
}

#elif defined(LIFT_CPU_ARM64)

bool Supported(CpuIsa isa) {
  const bool dotprod = (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
  if (isa == CpuIsa::kNeonDotprod) return dotprod;
  return isa == CpuIsa::kNeonI8mm && dotprod && (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0;
}

#else

bool Supported(CpuIsa) { return false; }

#endif

}  // namespace

bool CpuIsaSupported(CpuIsa isa) {
  return isa == CpuIsa::kAuto || isa == CpuIsa::kPortable || Supported(isa);
}

CpuIsa BestCpuIsa() {
  CpuIsa best = CpuIsa::kPortable;
  for (const CpuIsa isa : kCpuIsas) best = CpuIsaSupported(isa) ? isa : best;
  return best;
}

namespace cpu {

const Kernels& KernelsFor(CpuIsa isa) {
  LIFT_CHECK(CpuIsaSupported(isa));
  if (isa == CpuIsa::kAuto) isa = BestCpuIsa();
#if defined(LIFT_CPU_X86)
  if (isa == CpuIsa::kAvx2) return Avx2Kernels();
  if (isa == CpuIsa::kAvxVnni) return AvxVnniKernels();
  if (isa == CpuIsa::kAvx512Vnni) return HasGfni() ? Avx512GfniKernels() : Avx512Kernels();
#elif defined(LIFT_CPU_ARM64)
  if (isa == CpuIsa::kNeonDotprod) return NeonDotprodKernels();
  if (isa == CpuIsa::kNeonI8mm) return NeonI8mmKernels();
#endif
  return PortableKernels();
}

std::vector<const Kernels*> RunnableKernels() {
  std::vector<const Kernels*> tables;
  for (const CpuIsa isa : kCpuIsas) {
    if (!CpuIsaSupported(isa)) continue;
#if defined(LIFT_CPU_X86)
    if (isa == CpuIsa::kAvx512Vnni && HasGfni()) tables.push_back(&Avx512Kernels());
#endif
    tables.push_back(&KernelsFor(isa));
  }
  return tables;
}

}  // namespace cpu
}  // namespace lift
