// Chat-template source -> tokens, with trim_blocks and lstrip_blocks on as transformers has them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/base/status.h"

namespace lift::jinja {

struct Token {
  enum Kind {
    kText,
    kBlockBegin,
    kBlockEnd,
    kOutputBegin,
    kOutputEnd,
    kName,
    kString,
    kInteger,
    kOperator,
    kEnd
  } kind;
  std::string text;    // text, name, decoded string or operator
  int64_t number = 0;  // kInteger
  int line = 1;
};

// INVALID_ARGUMENT for what Jinja would not read either, UNIMPLEMENTED for what is left out here;
// both name the line.
absl::StatusOr<std::vector<Token>> Tokenize(const std::string& source);

}  // namespace lift::jinja
