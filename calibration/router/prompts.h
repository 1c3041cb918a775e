// Prompts for training and judging the router: JSON lines as users' requests.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/base/status.h"
#include "server/tokenizer/tokenizer.h"

namespace lift {

struct RouterPrompt {
  std::vector<int32_t> tokens;  // as a server would give them to the model
  std::string text;             // of the last user turn, for the router's text features
  int64_t turns = 1;
  int64_t max_new_tokens = 0;          // 0 = the caller's default
  std::string kind, source, language;  // labels for reports; the router never sees them
};

// Each line is an object with "prompt" (one user turn) or "messages" ([{"role", "content"}]), and
// optionally "kind", "source", "language" and "max_new_tokens". Both go through the model's chat
// template; a model without one continues a "prompt" as it stands and refuses "messages".
// INVALID_ARGUMENT naming file and line. limit: the first so many lines; 0 = all.
absl::StatusOr<std::vector<RouterPrompt>> LoadRouterPrompts(const std::string& path,
                                                            const Tokenizer& tokenizer,
                                                            int64_t limit);

}  // namespace lift
