// A conversation -> token ids, such that nothing a message says can become a control token.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/base/status.h"
#include "server/tokenizer/chat_template.h"
#include "server/tokenizer/tokenizer.h"

namespace lift {

// Renders the template and encodes it. The control tokens of the result are exactly those the
// template itself writes: the conversation is rendered a second time with a unique placeholder for
// each content, which tells template text from content.
// - If encoding the whole text at once yields the template's own control tokens and no others, that
// is the result, identical to
//   what Hugging Face's apply_chat_template gives.
// - Otherwise some content spells a control token: the parts are encoded one by one, contents as
// plain text. INVALID_ARGUMENT if a content spells a control token and the template rewrites
// contents, so that they cannot be told apart.
absl::StatusOr<std::vector<int32_t>> EncodeChat(const Tokenizer& tokenizer,
                                                const ChatTemplate& chat_template,
                                                const std::vector<ChatMessage>& messages);

}  // namespace lift
