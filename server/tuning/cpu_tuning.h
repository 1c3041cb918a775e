// --cpu-tuning: which of the ways of equal bits a CPU backend takes on this machine.
#pragma once

#include <string>

#include "server/tuning/tuning_file.h"

namespace lift {

// The key of measurements made here.
TuningKey TuningKeyHere(CpuIsa isa, int threads);
// Where measurements are kept; empty if the environment names no home.
std::string DefaultTuningPath();

struct ResolvedTuning {
  CpuTuning tuning;
  std::string note;  // a sentence for the log: which it is and why
};

// "auto": what is stored at the default place, else the constants. "default": the constants.
// "measure": measures and stores. Anything else: the path of a file. Never fails: what cannot be
// used is named in the note, and the constants are taken.
ResolvedTuning ResolveCpuTuning(const std::string& mode, ThreadPool& pool, CpuIsa isa);

// What to store of a measurement made here.
TuningEntry MeasuredEntry(CpuIsa isa, int threads, const CpuTuning& tuning);
// "1+0p 32, 1+1p 8", the codes there is a choice for.
std::string TuningSummary(CpuIsa isa, const CpuTuning& tuning);

}  // namespace lift
