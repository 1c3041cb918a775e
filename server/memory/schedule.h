// Budgets by the time of day.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "kernels/base/status.h"

namespace lift {

class MemorySchedule {
 public:
  // "07:00=4096,22:30=1024": from each HH:MM on, MiB for weights. INVALID_ARGUMENT names the part
  // that is wrong. Empty: no schedule.
  static absl::StatusOr<MemorySchedule> Parse(const std::string& text);

  bool empty() const { return budgets_.empty(); }
  // Bytes at a minute of the day (0 to 1439); nothing without a schedule. Before the day's first
  // entry the last one of the day before holds.
  std::optional<uint64_t> BytesAt(int minute) const;

 private:
  std::map<int, uint64_t> budgets_;  // by minute of the day
};

}  // namespace lift
