// Chat templates: the Jinja subset that published chat templates use.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/base/status.h"

namespace lift {

struct ChatMessage {
  std::string role, content;
};

// Compiled template. Immutable; thread-safe.
class ChatTemplate {
 public:
  // UNIMPLEMENTED naming the construct (with its line) if the template needs more than the subset.
  static absl::StatusOr<std::shared_ptr<const ChatTemplate>> Compile(const std::string& source);
  ~ChatTemplate();
  struct Options {
    bool add_generation_prompt = true;
    std::string bos_token, eos_token;
    std::optional<int64_t> unix_time = {};  // what strftime_now() shows (in UTC); absent: now
  };
  // INVALID_ARGUMENT if the template raises an exception (its message is passed on). Bounded time
  // and output.
  absl::StatusOr<std::string> Render(const std::vector<ChatMessage>& messages,
                                     const Options& options) const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lift
