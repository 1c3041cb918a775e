#include "server/tokenizer/huggingface_pretokenizer.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "server/tokenizer/pretokenizer_patterns.h"

namespace lift {
namespace {

absl::Status Unsupported(absl::string_view a, const auto&... rest) {
  return absl::UnimplementedError(absl::StrCat("tokenizer.json: ", a, rest...));
}

absl::Status Invalid(absl::string_view a, const auto&... rest) {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer.json: ", a, rest...));
}

// "MergedWithPrevious" -> "merged_with_previous"
std::string SnakeCase(const std::string& name) {
  std::string out;
  for (const char c : name) {
    if (absl::ascii_isupper(c) && !out.empty()) out += '_';
    out += absl::ascii_tolower(c);
  }
  return out;
}

std::string QuoteLiteral(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (absl::ascii_ispunct(c)) out += '\\';
    out += c;
  }
  return out;
}

absl::Status ReadSplit(const Json& json, TokenizerSpec& spec) {
  TokenizerSpec::Split split;
  const Json* pattern = JsonFind(json, "pattern");
  if (pattern == nullptr || !pattern->is_object()) return Invalid("a Split has no pattern");
  LIFT_ASSIGN_OR_RETURN(split.pattern, JsonString(*pattern, "Regex", ""));
  if (split.pattern.empty()) {
    LIFT_ASSIGN_OR_RETURN(const std::string literal, JsonString(*pattern, "String", ""));
    split.pattern = QuoteLiteral(literal);
  }
  if (split.pattern.empty()) return Invalid("the pattern of a Split is empty");
  LIFT_ASSIGN_OR_RETURN(const std::string behavior, JsonString(json, "behavior", "Isolated"));
  split.behavior = SnakeCase(behavior);
  LIFT_ASSIGN_OR_RETURN(split.invert, JsonBool(json, "invert", false));
  spec.splits.push_back(std::move(split));
  return absl::OkStatus();
}

absl::Status ReadByteLevel(const Json& json, TokenizerSpec& spec) {
  LIFT_ASSIGN_OR_RETURN(spec.add_prefix_space, JsonBool(json, "add_prefix_space", true));
  LIFT_ASSIGN_OR_RETURN(const bool use_regex, JsonBool(json, "use_regex", true));
  spec.prefix_space_at = static_cast<int32_t>(spec.splits.size());
  if (use_regex) spec.splits.push_back({kGpt2Pattern, "isolated", false});
  return absl::OkStatus();
}

// `byte_level` becomes true at the ByteLevel step, after which nothing may follow: it would see the
// byte alphabet.
absl::Status ReadStep(const Json& json, bool& byte_level, TokenizerSpec& spec) {
  const std::string type = JsonType(json);
  if (type == "Sequence") {
    const Json* list = JsonFind(json, "pretokenizers");
    if (list == nullptr || !list->is_array())
      return Invalid("a pre_tokenizer Sequence has no list");
    for (const Json& item : *list) {
      LIFT_RETURN_IF_ERROR(ReadStep(item, byte_level, spec));
    }
    return absl::OkStatus();
  }
  if (byte_level) return Unsupported("pre_tokenizer ", type, " after ByteLevel is not supported");
  if (type == "ByteLevel") {
    byte_level = true;
    return ReadByteLevel(json, spec);
  }
  if (type == "Split") return ReadSplit(json, spec);
  if (type == "Digits") {
    LIFT_ASSIGN_OR_RETURN(const bool individual, JsonBool(json, "individual_digits", false));
    spec.splits.push_back({individual ? "\\p{N}" : "\\p{N}+", "isolated", false});
    return absl::OkStatus();
  }
  return Unsupported("pre_tokenizer ", type,
                     " is not supported; ByteLevel, Split, Digits and Sequence are");
}

}  // namespace

absl::Status ReadPreTokenizer(const Json* pre_tokenizer, TokenizerSpec& spec) {
  bool byte_level = false;
  if (pre_tokenizer != nullptr) LIFT_RETURN_IF_ERROR(ReadStep(*pre_tokenizer, byte_level, spec));
  if (!byte_level)
    return Unsupported("a tokenizer without the ByteLevel pre_tokenizer is not supported");
  return absl::OkStatus();
}

}  // namespace lift
