// tuning.h by table instead of instruction set, for tests that run them all. Not for other folders.
#pragma once

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/tuning.h"

namespace lift::cpu {

std::vector<CodeStreams> TunableCodes(const Kernels& kernels);
CpuTuning DefaultTuning(const Kernels& kernels);
CpuTuning AllowedTuning(const Kernels& kernels, const CpuTuning& tuning);

// By the times at hand. A way counts as faster from a margin on, and the default stays unless the
// margins of the counts, taken together, speak for another number of columns.
CpuTuning ChooseTuning(const Kernels& kernels, const std::vector<CpuTuningPoint>& points);

CpuTuningReport MeasureTuning(ThreadPool& pool, const Kernels& kernels,
                              const CpuTuningOptions& options);

}  // namespace lift::cpu
