#include "server/tokenizer/chat_prompt.h"

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/errors.h"

namespace lift {
namespace {

// A run of the rendered text: written by the template, or the content of a message.
struct Part {
  bool content = false;
  std::string text;
};

// Placeholders are private-use code points around a number; `salt` makes them differ from anything
// a message says.
std::string Placeholder(const std::string& salt, size_t index) {
  return absl::StrCat("\uE0F0", salt, ".", index, "\uE0F1");
}

std::string UniqueSalt(const std::vector<ChatMessage>& messages) {
  for (uint64_t i = 0;; ++i) {
    std::string salt = absl::StrCat("\uE0F2", i);
    const auto says = [&](const ChatMessage& m) {
      return m.content.find(salt) != std::string::npos;
    };
    if (std::none_of(messages.begin(), messages.end(), says)) return salt;
  }
}

std::vector<Part> SplitAtPlaceholders(std::string_view text, const std::string& salt,
                                      const std::vector<std::string>& cores) {
  const std::string opening = absl::StrCat("\uE0F0", salt, ".");
  std::vector<Part> parts;
  size_t begin = 0;
  while (true) {
    const size_t open = text.find(opening, begin);
    if (open == std::string_view::npos) break;
    size_t end = open + opening.size(), index = 0;
    while (end < text.size() && absl::ascii_isdigit(static_cast<unsigned char>(text[end]))) {
      index = index * 10 + static_cast<size_t>(text[end++] - '0');
    }
    if (index >= cores.size() || text.substr(end, 3) != "\uE0F1") break;  // the template cut one up
    parts.push_back({false, std::string(text.substr(begin, open - begin))});
    parts.push_back({true, cores[index]});
    begin = end + 3;
  }
  parts.push_back({false, std::string(text.substr(begin))});
  return parts;
}

// Parts whose concatenation is `text`; nothing if the template does more with contents than print
// them.
absl::StatusOr<std::optional<std::vector<Part>>> TellApart(const ChatTemplate& chat_template,
                                                           const ChatTemplate::Options& options,
                                                           const std::vector<ChatMessage>& messages,
                                                           const std::string& text) {
  const std::string salt = UniqueSalt(messages);
  std::vector<ChatMessage> masked = messages;
  std::vector<std::string>
      cores;  // contents without the white space around them, which templates like to trim
  for (ChatMessage& message : masked) {
    const std::string core(absl::StripAsciiWhitespace(message.content));
    if (!core.empty()) {
      const size_t at = message.content.find(core);
      message.content.replace(at, core.size(), Placeholder(salt, cores.size()));
    }
    cores.push_back(core);
  }
  // A template may refuse the placeholder where it accepts the content; then they cannot be told
  // apart.
  const absl::StatusOr<std::string> rendered = chat_template.Render(masked, options);
  if (!rendered.ok()) return std::nullopt;
  std::vector<Part> parts = SplitAtPlaceholders(*rendered, salt, cores);
  std::string joined;
  for (const Part& part : parts) joined += part.text;
  if (joined != text) return std::nullopt;
  return parts;
}

std::vector<int32_t> ControlTokens(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  std::vector<int32_t> control;
  std::copy_if(ids.begin(), ids.end(), std::back_inserter(control),
               [&](int32_t id) { return tokenizer.IsSpecial(id); });
  return control;
}

bool SpellsControlToken(const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages) {
  for (const AddedToken& token : tokenizer.spec().added_tokens) {
    if (!token.special || token.content.empty()) continue;
    for (const ChatMessage& message : messages) {
      if (message.content.find(token.content) != std::string::npos) return true;
    }
  }
  return false;
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> EncodeChat(const Tokenizer& tokenizer,
                                                const ChatTemplate& chat_template,
                                                const std::vector<ChatMessage>& messages) {
  ChatTemplate::Options options;
  options.bos_token = tokenizer.spec().bos_token;
  options.eos_token = tokenizer.spec().eos_token;
  options.unix_time = absl::ToUnixSeconds(absl::Now());  // the same in both renderings
  LIFT_ASSIGN_OR_RETURN(const std::string text, chat_template.Render(messages, options));
  const Tokenizer::EncodeOptions with_control{.add_special = false, .parse_special = true};
  const Tokenizer::EncodeOptions plain{.add_special = false, .parse_special = false};
  LIFT_ASSIGN_OR_RETURN(std::vector<int32_t> whole, tokenizer.Encode(text, with_control));

  LIFT_ASSIGN_OR_RETURN(const std::optional<std::vector<Part>> parts,
                        TellApart(chat_template, options, messages, text));
  if (!parts) {
    if (!SpellsControlToken(tokenizer, messages)) return whole;
    return WithReason(
        absl::InvalidArgumentError("a message spells a control token of this model, and its chat "
                                   "template cannot carry it as plain text; remove it"),
        "CONTROL_TOKEN_IN_CONTENT", "messages");
  }
  std::vector<int32_t> apart, template_control;
  for (const Part& part : *parts) {
    LIFT_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                          tokenizer.Encode(part.text, part.content ? plain : with_control));
    if (!part.content) {
      const std::vector<int32_t> control = ControlTokens(tokenizer, ids);
      template_control.insert(template_control.end(), control.begin(), control.end());
    }
    apart.insert(apart.end(), ids.begin(), ids.end());
  }
  return ControlTokens(tokenizer, whole) == template_control ? whole : apart;
}

}  // namespace lift
