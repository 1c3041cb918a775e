// Finds stop strings in streamed text and holds back what may still become one.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lift {

// The first stop string to be completed wins (the longest of those that end together), however the
// text was cut into pieces. Stop strings must be non-empty and start at a character, so released
// text never ends inside one.
class StopMatcher {
 public:
  explicit StopMatcher(const std::vector<std::string>& stops);

  struct Result {
    std::string text;  // safe to show
    int matched = -1;  // index of the stop string; the matcher must not be used after that
  };
  Result Push(std::string_view text);
  // What was held back; nothing more will come.
  std::string Flush();

 private:
  // Knuth-Morris-Pratt: failure[i] = length of the longest proper border of the first i bytes.
  struct Pattern {
    std::string text;
    std::vector<size_t> failure;
    size_t state = 0;  // bytes matched so far
  };
  static void Advance(Pattern& pattern, char byte);

  std::vector<Pattern> patterns_;
  std::string held_;
};

}  // namespace lift
