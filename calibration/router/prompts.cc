#include "calibration/router/prompts.h"

#include <algorithm>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "calibration/chat_lines.h"
#include "server/tokenizer/chat_prompt.h"

namespace lift {
namespace {

using nlohmann::json;

// Turns one line into a prompt.
class Reader {
 public:
  static absl::StatusOr<Reader> Create(const Tokenizer& tokenizer) {
    Reader reader(tokenizer);
    const std::string& source = tokenizer.spec().chat_template;
    if (!source.empty()) {
      LIFT_ASSIGN_OR_RETURN(reader.template_, ChatTemplate::Compile(source));
    }
    return reader;
  }

  absl::StatusOr<RouterPrompt> Read(const std::string& line) const {
    const json value = json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!value.is_object()) return absl::InvalidArgumentError("is not a JSON object");
    RouterPrompt prompt;
    for (const auto& [name, text] : {std::pair("kind", &prompt.kind),
                                     {"source", &prompt.source},
                                     {"language", &prompt.language}}) {
      const auto it = value.find(name);
      if (it != value.end() && it->is_string()) *text = *it;
    }
    if (const auto it = value.find("max_new_tokens"); it != value.end()) {
      if (!it->is_number_integer() || *it < 1 || *it > 1 << 20) {
        return absl::InvalidArgumentError("has a \"max_new_tokens\" that is no positive number");
      }
      prompt.max_new_tokens = *it;
    }
    LIFT_ASSIGN_OR_RETURN(const std::vector<ChatMessage> messages, Messages(value));
    prompt.turns = 0;
    for (const ChatMessage& message : messages) {
      if (message.role != "user") continue;
      prompt.text = message.content;
      ++prompt.turns;
    }
    prompt.turns = std::max<int64_t>(prompt.turns, 1);
    LIFT_ASSIGN_OR_RETURN(prompt.tokens, Encode(messages));
    if (prompt.tokens.empty()) return absl::InvalidArgumentError("gives no tokens");
    return prompt;
  }

 private:
  explicit Reader(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  static absl::StatusOr<std::vector<ChatMessage>> Messages(const json& value) {
    std::vector<ChatMessage> messages;
    const auto prompt = value.find("prompt"), turns = value.find("messages");
    if (prompt != value.end() && prompt->is_string() &&
        !prompt->get_ref<const std::string&>().empty()) {
      messages.push_back({"user", *prompt});
    } else if (turns != value.end() && turns->is_array()) {
      LIFT_ASSIGN_OR_RETURN(messages, ReadMessages(*turns));
    }
    if (messages.empty()) {
      return absl::InvalidArgumentError("has neither a \"prompt\" nor \"messages\" with text");
    }
    return messages;
  }

  absl::StatusOr<std::vector<int32_t>> Encode(const std::vector<ChatMessage>& messages) const {
    if (template_ != nullptr) return EncodeChat(tokenizer_, *template_, messages);
    if (messages.size() > 1) {
      return absl::InvalidArgumentError("is a conversation, and the model has no chat template");
    }
    return tokenizer_.Encode(messages.front().content,
                             {.add_special = true, .parse_special = false});
  }

  const Tokenizer& tokenizer_;
  std::shared_ptr<const ChatTemplate> template_;
};

}  // namespace

absl::StatusOr<std::vector<RouterPrompt>> LoadRouterPrompts(const std::string& path,
                                                            const Tokenizer& tokenizer,
                                                            int64_t limit) {
  LIFT_ASSIGN_OR_RETURN(const Reader reader, Reader::Create(tokenizer));
  std::ifstream in(path, std::ios::binary);
  if (!in.is_open())
    return absl::NotFoundError(absl::StrCat("cannot read the prompts '", path, "'"));
  std::vector<RouterPrompt> prompts;
  std::string line;
  for (int64_t number = 1; std::getline(in, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    if (limit > 0 && static_cast<int64_t>(prompts.size()) >= limit) break;
    auto prompt = reader.Read(line);
    if (!prompt.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ":", number, " ", prompt.status().message()));
    }
    prompts.push_back(*std::move(prompt));
  }
  if (prompts.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("the prompts '", path, "' are empty"));
  }
  return prompts;
}

}  // namespace lift
