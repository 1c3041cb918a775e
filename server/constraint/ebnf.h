// Small grammars in the notation of GBNF.
#pragma once

#include <string_view>

#include "kernels/base/status.h"
#include "server/constraint/grammar.h"

namespace lift {

// rule ::= alternatives of: "literal", [class], [^class], . (any character), rule names, (groups),
// each with * + ? {m} {m,} {m,n}; | between alternatives; # comments. `root` is the whole text.
// Escapes: \n \r \t \\ \" \[ \] \- \^ \xHH \uHHHH \UHHHHHHHH. INVALID_ARGUMENT with the line.
absl::StatusOr<Grammar> ParseEbnf(std::string_view text);

}  // namespace lift
