// What kind of prompt it is and in which language, for reports on how requests were served. The
// router does not read it; like everything here it knows no identity.
#pragma once

#include <string_view>

#include "router/router.h"

namespace lift::router {

// The first that fits, in this order.
enum class PromptClass { kNone, kCode, kMaths, kList, kLong, kQuestion, kChat };
// "none", "code", "maths", "list", "long", "question", "chat".
std::string_view PromptClassName(PromptClass prompt_class);
// kNone: no text (token ids). kLong: at least kLongWords words.
inline constexpr int64_t kLongWords = 150;
PromptClass ClassifyPrompt(const TextFeatures& features);

// ISO 639-1 code, or "und" if there is too little to tell by: of scripts that one language writes
// in, the script; of Latin and Cyrillic ones common words and letters. Reads at most the first
// kLanguageBytes. Any bytes are fine.
inline constexpr size_t kLanguageBytes = 4096;
std::string_view DetectLanguage(std::string_view text);

// Both; what an observer of decisions is told of the prompt.
struct PromptKind {
  PromptClass prompt_class = PromptClass::kNone;
  std::string_view language = "und";  // a constant
};
inline PromptKind KindOf(const TextFeatures& features, std::string_view text) {
  return {ClassifyPrompt(features), DetectLanguage(text)};
}

}  // namespace lift::router
