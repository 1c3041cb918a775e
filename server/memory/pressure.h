// What the kernel says about memory, and what follows from it.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "kernels/base/status.h"

namespace lift {

struct PressureReading {
  double some_avg10 = 0;           // percent of the last 10 s that some task waited for memory
  std::optional<uint64_t> room{};  // bytes below memory.high; nothing where there is none
};

// `path` is a PSI file (/proc/pressure/memory) or a cgroup folder (memory.pressure, memory.current,
// memory.high; each may be absent, but not all). UNAVAILABLE naming what cannot be read.
absl::StatusOr<PressureReading> ReadPressure(const std::string& path);

// What those files say, as texts; nothing for one that is absent. INVALID_ARGUMENT naming the file
// that says something else, or if there is neither pressure nor a limit. "max" is no limit.
struct PressureTexts {
  std::optional<std::string> pressure{}, current{}, high{};
};
absl::StatusOr<PressureReading> ParsePressure(const PressureTexts& texts);

// The number in a PSI file's line "some avg10=1.23 avg60=..."; INVALID_ARGUMENT without one.
absl::StatusOr<double> ParseSomeAvg10(const std::string& text);

// When a variant goes and when it returns. No clock, no files.
class PressurePolicy {
 public:
  struct Options {
    double threshold = 10;             // percent; at or above it memory is short
    std::chrono::seconds settle{5};    // after a variant went, before the next one goes
    std::chrono::seconds recover{60};  // of calm, before one returns
  };
  using Time = std::chrono::steady_clock::time_point;
  explicit PressurePolicy(Options options) : options_(options) {}

  // How many variants fewer than allowed there should be: 0 to `most`. `next_bytes` is what the
  // next one that returns would need.
  int Decide(const PressureReading& reading, Time now, int most, uint64_t next_bytes);

 private:
  const Options options_;
  int dropped_ = 0;
  std::optional<Time> changed_, calm_since_;
};

}  // namespace lift
