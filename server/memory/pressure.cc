#include "server/memory/pressure.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace lift {
namespace {

std::optional<std::string> Read(const std::string& path) {
  std::ifstream in(path);
  if (!in) return std::nullopt;
  std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

absl::Status Unreadable(const std::string& path, const std::string& what) {
  return absl::UnavailableError(absl::StrCat("--memory-pressure ", path, " ", what));
}

}  // namespace

absl::StatusOr<double> ParseSomeAvg10(const std::string& text) {
  constexpr absl::string_view kStart = "some avg10=";
  double value = 0;
  const size_t at = text.find(kStart.data(), 0, kStart.size());
  if (at != std::string::npos) {
    const size_t begin = at + kStart.size(), end = text.find(' ', begin);
    if (absl::SimpleAtod(absl::string_view(text).substr(begin, end - begin), &value) &&
        value >= 0 && value <= 100) {
      return value;
    }
  }
  return absl::InvalidArgumentError("has no line 'some avg10=PERCENT'");
}

absl::StatusOr<PressureReading> ParsePressure(const PressureTexts& texts) {
  PressureReading reading;
  if (texts.pressure) {
    LIFT_ASSIGN_OR_RETURN(reading.some_avg10, ParseSomeAvg10(*texts.pressure));
  }
  const bool limited = texts.current && texts.high;
  if (limited && *texts.high != "max") {
    uint64_t used = 0, limit = 0;
    if (!absl::SimpleAtoi(*texts.current, &used) || !absl::SimpleAtoi(*texts.high, &limit)) {
      return absl::InvalidArgumentError("has no number in memory.current or memory.high");
    }
    reading.room = limit > used ? limit - used : 0;
  }
  if (!texts.pressure && !limited) {
    return absl::InvalidArgumentError("has neither memory.pressure nor memory.high");
  }
  return reading;
}

absl::StatusOr<PressureReading> ReadPressure(const std::string& path) {
  std::error_code error;
  const bool folder = std::filesystem::is_directory(path, error);
  PressureTexts texts{.pressure = Read(folder ? path + "/memory.pressure" : path)};
  if (folder) {
    texts.current = Read(path + "/memory.current");
    texts.high = Read(path + "/memory.high");
  } else if (!texts.pressure) {
    return Unreadable(path, "cannot be read");
  }
  auto reading = ParsePressure(texts);
  if (!reading.ok()) return Unreadable(path, std::string(reading.status().message()));
  return reading;
}

int PressurePolicy::Decide(const PressureReading& reading, Time now, int most,
                           uint64_t next_bytes) {
  const bool is_short = reading.some_avg10 >= options_.threshold || reading.room == uint64_t{0};
  if (is_short) {
    calm_since_.reset();
    if (dropped_ < most && (!changed_ || now - *changed_ >= options_.settle)) {
      ++dropped_;
      changed_ = now;
    }
  } else {
    if (!calm_since_) calm_since_ = now;
    // What returns must leave as much room again, or it would go at once.
    const bool fits = !reading.room || *reading.room / 2 >= next_bytes;
    if (dropped_ > 0 && fits && now - *calm_since_ >= options_.recover) {
      --dropped_;
      changed_ = calm_since_ = now;
    }
  }
  return std::min(dropped_, most);
}

}  // namespace lift
