// Every kernel table this machine can run, for parameterized tests.
#pragma once

#include <string>
#include <vector>

#include "kernels/cpu/cpu_backend_impl.h"

namespace lift {

inline std::vector<const cpu::Kernels*> AllTables() {
  std::vector<const cpu::Kernels*> tables = {&cpu::PortableKernels()};
#if defined(LIFT_CPU_X86)
  if (CpuIsaSupported(CpuIsa::kAvx2)) tables.push_back(&cpu::Avx2Kernels());
  if (CpuIsaSupported(CpuIsa::kAvx512Vnni)) {
    tables.push_back(&cpu::Avx512Kernels());
    if (__builtin_cpu_supports("gfni") && __builtin_cpu_supports("avx512vbmi2"))
      tables.push_back(&cpu::Avx512GfniKernels());
  }
#endif
  return tables;
}

inline std::string TableName(const cpu::Kernels* table) {
  std::string name = table->name;
  for (char& c : name) {
    if (c == '-' || c == '+') c = '_';
  }
  return name;
}

}  // namespace lift
