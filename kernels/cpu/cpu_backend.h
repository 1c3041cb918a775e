// The CPU backend: ISA chosen at run time, loops on a thread pool.
#pragma once

#include <memory>
#include <optional>
#include <string_view>

#include "kernels/backend.h"
#include "kernels/base/thread_pool.h"

namespace lift {

enum class CpuIsa { kAuto, kPortable, kAvx2, kAvxVnni, kAvx512Vnni, kNeonDotprod, kNeonI8mm };

// All but kAuto, the better ones of a family last.
inline constexpr CpuIsa kCpuIsas[] = {CpuIsa::kPortable,   CpuIsa::kAvx2,        CpuIsa::kAvxVnni,
                                      CpuIsa::kAvx512Vnni, CpuIsa::kNeonDotprod, CpuIsa::kNeonI8mm};

std::string_view CpuIsaName(CpuIsa isa);
// Null for other names.
std::optional<CpuIsa> CpuIsaNamed(std::string_view name);
bool CpuIsaSupported(CpuIsa isa);
CpuIsa BestCpuIsa();

// `pool` must outlive the backend. One step at a time (the ops share the pool). isa must be
// supported (CHECK).
std::unique_ptr<Backend> MakeCpuBackend(ThreadPool& pool, CpuIsa isa = CpuIsa::kAuto);
// Outputs are the same with every tuning.
struct CpuTuning;
std::unique_ptr<Backend> MakeCpuBackend(ThreadPool& pool, CpuIsa isa, const CpuTuning& tuning);

}  // namespace lift
