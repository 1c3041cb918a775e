// Which of two ways of equal bits multiplies sign planes by a few columns: sign products, or sums
// looked up in tables. What is faster differs by CPU, code and count; this says which is taken.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "kernels/cpu/cpu_backend.h"

namespace lift {

// Kinds of codes are told apart by their streams.
struct CodeStreams {
  int stored = 1, derived = 0;
  friend bool operator==(const CodeStreams&, const CodeStreams&) = default;
};

struct CpuTuning {
  static constexpr int kMostStored = 4, kMostDerived = 1;
  static constexpr int kMostColumns = 32;  // that tables may be made for

  // [stored][derived]: columns at once (a wide token is two) up to which sums are looked up in
  // tables; 0: never.
  int most[kMostStored + 1][kMostDerived + 1] = {};

  int& at(CodeStreams code) { return most[code.stored][code.derived]; }
  int at(CodeStreams code) const { return most[code.stored][code.derived]; }
  int Largest() const;
  friend bool operator==(const CpuTuning&, const CpuTuning&) = default;
};

// Name of the instruction set's table of kernels, which tells more apart than CpuIsaName.
std::string_view CpuTableName(CpuIsa isa);
// The kinds of codes there is a choice for; none on tables that look nothing up.
std::vector<CodeStreams> TunableCodes(CpuIsa isa);
// What was faster on the machines that the tables were written on.
CpuTuning DefaultCpuTuning(CpuIsa isa);
// `tuning` without what there is no choice for or is out of range.
CpuTuning AllowedCpuTuning(CpuIsa isa, const CpuTuning& tuning);

struct CpuTuningPoint {
  CodeStreams code;
  int columns = 0;
  double signs = 0;  // times columns, derived ones counted
  double lookup_seconds = 0, product_seconds = 0;
};

struct CpuTuningReport {
  std::vector<CpuTuningPoint> points;
  CpuTuning tuning;
};

struct CpuTuningOptions {
  double seconds = 0.25;  // in all, about; every point is measured twice at least
  // Of a layer. Tables are made once for all rows, so where the ways are close, which is at few
  // columns, it should have as many rows as most planes of a model do; more would take long.
  int64_t rows = 3072;
  int64_t rows_of_few = 8192;      // up to four columns
  int64_t cols = 2048;             // of it
  int64_t plane_bytes = 64 << 20;  // walked through, more than the caches of the threads hold
};

// Times both ways through the backend's own matmuls, in turns, on random planes.
CpuTuningReport MeasureCpuTuning(ThreadPool& pool, CpuIsa isa, const CpuTuningOptions& options);

}  // namespace lift
