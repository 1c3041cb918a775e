// What decides how much memory weights may take: "S" and a schedule, or "P" and up to three texts
// of the kernel (memory.pressure, memory.current, memory.high) separated by zero bytes; "-" is a
// file that is absent.
#include <algorithm>
#include <array>
#include <optional>

#include "kernels/base/check.h"
#include "server/memory/pressure.h"
#include "server/memory/schedule.h"
#include "tests/fuzz/fuzz_target.h"

namespace lift {
namespace {

constexpr int kMinutes = 24 * 60;

// Every minute has a budget in the documented range, and only entries change it.
void UseSchedule(const std::string& text) {
  const auto schedule = MemorySchedule::Parse(text);
  if (!schedule.ok()) {
    LIFT_CHECK(schedule.status().code() == absl::StatusCode::kInvalidArgument);
    return;
  }
  LIFT_CHECK(schedule->empty() == text.empty());
  const auto entries = std::count(text.begin(), text.end(), '=');
  std::optional<uint64_t> last = schedule->BytesAt(kMinutes - 1);
  int64_t changes = 0;
  for (int minute = 0; minute < kMinutes; ++minute) {
    const std::optional<uint64_t> now = schedule->BytesAt(minute);
    LIFT_CHECK(now.has_value() == !text.empty());
    LIFT_CHECK(!now || (*now >= uint64_t{1} << 20 && *now <= uint64_t{1} << 44));
    changes += now != last ? 1 : 0;
    last = now;
  }
  LIFT_CHECK(changes <= entries);
}

void UsePressure(const std::string& text) {
  PressureTexts texts;
  std::optional<std::string>* const files[] = {&texts.pressure, &texts.current, &texts.high};
  size_t begin = 0;
  for (auto* file : files) {
    const size_t end = std::min(text.find('\0', begin), text.size());
    *file = text.substr(begin, end - begin);
    if (**file == "-") file->reset();
    begin = std::min(end + 1, text.size());
  }
  const auto reading = ParsePressure(texts);
  if (!reading.ok()) {
    LIFT_CHECK(reading.status().code() == absl::StatusCode::kInvalidArgument);
    return;
  }
  LIFT_CHECK(reading->some_avg10 >= 0 && reading->some_avg10 <= 100);
  LIFT_CHECK(!reading->room || (texts.current && texts.high));
  // Shortage takes one variant at a time and never more than there are.
  PressurePolicy policy({});
  PressurePolicy::Time now{};
  int dropped = 0;
  for (int second = 0; second < 100; ++second, now += std::chrono::seconds(1)) {
    const int next = policy.Decide(*reading, now, 3, 1000);
    LIFT_CHECK(next >= dropped && next <= dropped + 1 && next <= 3);
    dropped = next;
  }
}

}  // namespace
}  // namespace lift

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string text = lift::InputText(data + 1, size - 1);
  data[0] == 'S' ? lift::UseSchedule(text) : lift::UsePressure(text);
  return 0;
}
