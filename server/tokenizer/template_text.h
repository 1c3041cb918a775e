// Text operations of Python's str, on UTF-8.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lift::jinja {

enum class Side { kLeft, kRight, kBoth };

// Without `chars`, strips Unicode white space.
std::string_view Strip(std::string_view text, Side side,
                       std::optional<std::string_view> chars = std::nullopt);
std::vector<std::string_view> Characters(std::string_view text);
int64_t Length(std::string_view text);  // in code points
std::string Upper(std::string_view text);
std::string Lower(std::string_view text);
std::string Title(std::string_view text);
std::string Capitalize(std::string_view text);
std::string Replace(std::string_view text, std::string_view from, std::string_view to,
                    int64_t count);  // count < 0: all
// Without `separator`, at runs of white space. limit < 0: no limit.
std::vector<std::string> Split(std::string_view text, std::optional<std::string_view> separator,
                               int64_t limit);
std::vector<std::string> SplitLines(std::string_view text);

}  // namespace lift::jinja
