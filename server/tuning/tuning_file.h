// The text of a file of tunings: entries of several machines.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/status.h"
#include "kernels/cpu/tuning.h"

namespace lift {

// What a measurement holds for.
struct TuningKey {
  std::string isa;  // CpuTableName
  std::string cpu;  // model name
  int threads = 0;
  friend bool operator==(const TuningKey&, const TuningKey&) = default;
};

struct TuningEntry {
  TuningKey key;
  // Codes that are not named, and may have another default elsewhere, are kUnnamed.
  static constexpr int kUnnamed = -1;
  CpuTuning tuning;
  friend bool operator==(const TuningEntry&, const TuningEntry&) = default;
};

// "1+1p", as codes are called elsewhere.
std::string CodeName(CodeStreams code);

// UNIMPLEMENTED: a tuning file of another version. INVALID_ARGUMENT: no tuning file, or a wrong
// one. Values that are accepted are in range, keys and entries few.
absl::StatusOr<std::vector<TuningEntry>> ParseTunings(std::string_view text);
std::string TuningsText(const std::vector<TuningEntry>& entries);

// NOT_FOUND if there is no file; else ParseTunings's errors.
absl::StatusOr<std::vector<TuningEntry>> ReadTunings(const std::string& path);
// Puts `entry` in the place of one of the same key, or before all others; makes the folder. A file
// that is not ours stays: FAILED_PRECONDITION.
absl::Status StoreTuning(const std::string& path, const TuningEntry& entry);

}  // namespace lift
