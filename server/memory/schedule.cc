#include "server/memory/schedule.h"

#include <cctype>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace lift {
namespace {

constexpr int64_t kMostMib = int64_t{1} << 24;

// -1 unless "HH:MM".
int MinuteOf(absl::string_view text) {
  if (text.size() != 5 || text[2] != ':') return -1;
  for (const size_t i : {0, 1, 3, 4}) {
    if (std::isdigit(static_cast<unsigned char>(text[i])) == 0) return -1;
  }
  const int hour = (text[0] - '0') * 10 + text[1] - '0',
            minute = (text[3] - '0') * 10 + text[4] - '0';
  return hour < 24 && minute < 60 ? hour * 60 + minute : -1;
}

}  // namespace

absl::StatusOr<MemorySchedule> MemorySchedule::Parse(const std::string& text) {
  MemorySchedule schedule;
  if (text.empty()) return schedule;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    const size_t equals = part.find('=');
    int64_t mib = 0;
    const int minute = MinuteOf(part.substr(0, equals));
    if (equals == absl::string_view::npos || minute < 0 ||
        !absl::SimpleAtoi(part.substr(equals + 1), &mib) || mib < 1 || mib > kMostMib) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--memory-schedule: '", part, "' is not HH:MM=MIB, e.g. 07:00=4096,22:30=1024"));
    }
    if (!schedule.budgets_.emplace(minute, static_cast<uint64_t>(mib) << 20).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("--memory-schedule: two budgets from ", part.substr(0, equals), " on"));
    }
  }
  return schedule;
}

std::optional<uint64_t> MemorySchedule::BytesAt(int minute) const {
  if (budgets_.empty()) return std::nullopt;
  const auto after = budgets_.upper_bound(minute);
  return after == budgets_.begin() ? budgets_.rbegin()->second : std::prev(after)->second;
}

}  // namespace lift
