// Conversations in JSON lines: "messages": [{"role": "...", "content": "..."}, ...].
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/base/status.h"
#include "server/tokenizer/chat_template.h"

namespace lift {

// INVALID_ARGUMENT for a message that is none.
inline absl::StatusOr<std::vector<ChatMessage>> ReadMessages(const nlohmann::json& array) {
  std::vector<ChatMessage> messages;
  for (const nlohmann::json& m : array) {
    if (!m.is_object() || !m.contains("role") || !m.contains("content") || !m["role"].is_string() ||
        !m["content"].is_string()) {
      return absl::InvalidArgumentError(
          "each message needs a string \"role\" and a string \"content\"");
    }
    messages.push_back({m["role"].get<std::string>(), m["content"].get<std::string>()});
  }
  return messages;
}

}  // namespace lift
