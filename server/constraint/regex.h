// Regular expressions: the part that RE2, PCRE2 and ECMAScript agree on.
#pragma once

#include <functional>
#include <string_view>

#include "kernels/base/status.h"
#include "server/constraint/grammar.h"

namespace lift {

struct RegexOptions {
  // The text of one of these code points; null: as it is (Grammar::Class).
  std::function<int(Grammar&, const CodePoints&)> characters = {};
  // Matches anywhere, as JSON Schema's pattern does, unless anchored; else the whole text.
  bool search = false;
};

// Literals, `.` (all but newline), classes, \d \w \s (of ASCII) and their opposites, groups, |,
// * + ? {m} {m,} {m,n} (lazy ones are the same language), \t \n \r \f \v \0 \xHH \uHHHH \u{H...};
// ^ and $ at the ends of the pattern or of an alternative of it. Everything else is refused by
// name: INVALID_ARGUMENT with the byte offset. Returns a node of `grammar`.
absl::StatusOr<int> ParseRegex(std::string_view pattern, const RegexOptions& options,
                               Grammar& grammar);

// For \d, \w, \s; empty for other letters.
CodePoints ShorthandClass(char letter);

}  // namespace lift
