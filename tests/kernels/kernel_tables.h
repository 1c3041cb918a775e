// Every kernel table this machine can run, for parameterized tests.
#pragma once

#include <string>
#include <vector>

#include "kernels/cpu/cpu_backend_impl.h"

namespace lift {

inline std::vector<const cpu::Kernels*> AllTables() { return cpu::RunnableKernels(); }

inline std::string TableName(const cpu::Kernels* table) {
  std::string name = table->name;
  for (char& c : name) {
    if (c == '-' || c == '+') c = '_';
  }
  return name;
}

}  // namespace lift
