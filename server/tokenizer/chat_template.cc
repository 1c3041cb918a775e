#include "server/tokenizer/chat_template.h"

#include <ctime>

#include "absl/strings/str_cat.h"
#include "server/tokenizer/template_interpreter.h"
#include "server/tokenizer/template_parser.h"
#include "server/tokenizer/utf8.h"

namespace lift {
namespace {

constexpr size_t kMaxTemplateBytes = 1u << 20;

}  // namespace

struct ChatTemplate::Impl {
  jinja::Block block;
};

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::~ChatTemplate() = default;

absl::StatusOr<std::shared_ptr<const ChatTemplate>> ChatTemplate::Compile(
    const std::string& source) {
  if (source.size() > kMaxTemplateBytes) {
    return absl::InvalidArgumentError(absl::StrCat("The chat template has ", source.size(),
                                                   " bytes; at most ", kMaxTemplateBytes,
                                                   " are read"));
  }
  if (FindInvalidUtf8(source) != std::string_view::npos)
    return absl::InvalidArgumentError("The chat template is not valid UTF-8");
  auto impl = std::make_unique<Impl>();
  LIFT_ASSIGN_OR_RETURN(impl->block, jinja::ParseTemplate(source));
  return std::shared_ptr<const ChatTemplate>(new ChatTemplate(std::move(impl)));
}

absl::StatusOr<std::string> ChatTemplate::Render(const std::vector<ChatMessage>& messages,
                                                 const Options& options) const {
  jinja::List list;
  list.reserve(messages.size());
  for (const ChatMessage& message : messages) {
    list.push_back(jinja::Value(jinja::Dict{{"role", jinja::Value(message.role)},
                                            {"content", jinja::Value(message.content)}}));
  }
  jinja::Interpreter interpreter(options.unix_time ? static_cast<std::time_t>(*options.unix_time)
                                                   : std::time(nullptr));
  interpreter.SetGlobal("messages", jinja::Value(std::move(list)));
  interpreter.SetGlobal("add_generation_prompt", jinja::Value(options.add_generation_prompt));
  interpreter.SetGlobal("bos_token", jinja::Value(options.bos_token));
  interpreter.SetGlobal("eos_token", jinja::Value(options.eos_token));
  interpreter.SetGlobal("tools", jinja::Value(jinja::None{}));
  interpreter.SetGlobal("documents", jinja::Value(jinja::None{}));
  return interpreter.Run(impl_->block);
}

}  // namespace lift
