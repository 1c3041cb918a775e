#include "server/engine/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "kernels/base/check.h"

namespace lift {

StopMatcher::StopMatcher(const std::vector<std::string>& stops) {
  for (const std::string& stop : stops) {
    LIFT_CHECK(!stop.empty());
    Pattern pattern{stop, std::vector<size_t>(stop.size() + 1), 0};
    for (size_t i = 1, border = 0; i < stop.size(); ++i) {
      while (border > 0 && stop[i] != stop[border]) border = pattern.failure[border];
      if (stop[i] == stop[border]) ++border;
      pattern.failure[i + 1] = border;
    }
    patterns_.push_back(std::move(pattern));
  }
}

void StopMatcher::Advance(Pattern& pattern, char byte) {
  while (pattern.state > 0 && byte != pattern.text[pattern.state]) {
    pattern.state = pattern.failure[pattern.state];
  }
  if (byte == pattern.text[pattern.state]) ++pattern.state;
}

StopMatcher::Result StopMatcher::Push(std::string_view text) {
  Result result;
  for (const char byte : text) {
    held_.push_back(byte);
    for (size_t i = 0; i < patterns_.size(); ++i) {
      Pattern& pattern = patterns_[i];
      Advance(pattern, byte);
      if (pattern.state < pattern.text.size()) continue;
      const bool longer =
          result.matched < 0 || pattern.text.size() > patterns_[result.matched].text.size();
      if (longer) result.matched = static_cast<int>(i);
    }
    if (result.matched >= 0) {
      result.text = held_.substr(0, held_.size() - patterns_[result.matched].text.size());
      held_.clear();
      return result;
    }
  }
  size_t keep = 0;
  for (const Pattern& pattern : patterns_) keep = std::max(keep, pattern.state);
  result.text = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return result;
}

std::string StopMatcher::Flush() { return std::exchange(held_, {}); }

}  // namespace lift
