#include "server/tokenizer/template_text.h"

#include <utf8proc.h>

#include <algorithm>

#include "server/tokenizer/utf8.h"

namespace lift::jinja {
namespace {

bool IsSpace(char32_t c) {
  return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

// Length of the first character; broken bytes count as one each, so that every text can be walked.
size_t CharacterLength(std::string_view text) {
  const Utf8Step step = ReadUtf8(text);
  return step.kind == Utf8Step::kValid ? step.length : 1;
}

char32_t CodePoint(std::string_view character) {
  const Utf8Step step = ReadUtf8(character);
  return step.kind == Utf8Step::kValid ? step.code_point : 0xFFFD;
}

void AppendUpper(char32_t c, std::string& out) {
  if (c == 0xDF) {
    out += "SS";
  } else {
    AppendUtf8(static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))), out);
  }
}

void AppendLower(char32_t c, std::string& out) {
  AppendUtf8(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))), out);
}

bool IsLetter(char32_t c) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL ||
         category == UTF8PROC_CATEGORY_LT;
}

}  // namespace

std::vector<std::string_view> Characters(std::string_view text) {
  std::vector<std::string_view> out;
  for (size_t at = 0; at < text.size();) {
    const size_t length = CharacterLength(text.substr(at));
    out.push_back(text.substr(at, length));
    at += length;
  }
  return out;
}

int64_t Length(std::string_view text) {
  int64_t count = 0;
  for (size_t at = 0; at < text.size(); at += CharacterLength(text.substr(at))) ++count;
  return count;
}

std::string_view Strip(std::string_view text, Side side, std::optional<std::string_view> chars) {
  const std::vector<std::string_view> set =
      chars ? Characters(*chars) : std::vector<std::string_view>();
  const auto strips = [&](std::string_view c) {
    return chars ? std::find(set.begin(), set.end(), c) != set.end() : IsSpace(CodePoint(c));
  };
  if (side != Side::kRight) {
    while (!text.empty()) {
      const size_t length = CharacterLength(text);
      if (!strips(text.substr(0, length))) break;
      text.remove_prefix(length);
    }
  }
  if (side != Side::kLeft) {
    while (!text.empty()) {
      size_t at = text.size() - 1;
      while (at > 0 && text.size() - at < 4 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80)
        --at;
      if (!strips(text.substr(at))) break;
      text = text.substr(0, at);
    }
  }
  return text;
}

std::string Upper(std::string_view text) {
  std::string out;
  for (const std::string_view c : Characters(text)) AppendUpper(CodePoint(c), out);
  return out;
}

std::string Lower(std::string_view text) {
  std::string out;
  for (const std::string_view c : Characters(text)) AppendLower(CodePoint(c), out);
  return out;
}

std::string Title(std::string_view text) {
  std::string out;
  bool inside = false;
  for (const std::string_view c : Characters(text)) {
    const char32_t code = CodePoint(c);
    inside ? AppendLower(code, out) : AppendUpper(code, out);
    inside = IsLetter(code);
  }
  return out;
}

std::string Capitalize(std::string_view text) {
  std::string out;
  bool first = true;
  for (const std::string_view c : Characters(text)) {
    first ? AppendUpper(CodePoint(c), out) : AppendLower(CodePoint(c), out);
    first = false;
  }
  return out;
}

std::string Replace(std::string_view text, std::string_view from, std::string_view to,
                    int64_t count) {
  std::string out;
  if (from.empty()) {  // Python puts `to` around every character
    for (const std::string_view c : Characters(text)) {
      if (count != 0) out += to;
      count -= count > 0;
      out += c;
    }
    if (count != 0) out += to;
    return out;
  }
  size_t at = 0;
  while (count != 0) {
    const size_t next = text.find(from, at);
    if (next == std::string_view::npos) break;
    out.append(text.substr(at, next - at)).append(to);
    at = next + from.size();
    count -= count > 0;
  }
  return out.append(text.substr(at));
}

std::vector<std::string> Split(std::string_view text, std::optional<std::string_view> separator,
                               int64_t limit) {
  std::vector<std::string> out;
  if (separator) {
    size_t next;
    while (limit != 0 && (next = text.find(*separator)) != std::string_view::npos) {
      out.emplace_back(text.substr(0, next));
      text.remove_prefix(next + separator->size());
      limit -= limit > 0;
    }
    out.emplace_back(text);
    return out;
  }
  for (text = Strip(text, Side::kLeft); !text.empty(); text = Strip(text, Side::kLeft)) {
    if (limit == 0) {
      out.emplace_back(Strip(text, Side::kRight));
      break;
    }
    size_t end = 0;
    while (end < text.size() && !IsSpace(CodePoint(text.substr(end))))
      end += CharacterLength(text.substr(end));
    out.emplace_back(text.substr(0, end));
    text.remove_prefix(end);
    limit -= limit > 0;
  }
  return out;
}

std::vector<std::string> SplitLines(std::string_view text) {
  std::vector<std::string> out;
  while (!text.empty()) {
    const size_t end = text.find_first_of("\r\n");
    out.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + (text.substr(end, 2) == "\r\n" ? 2 : 1));
  }
  return out;
}

}  // namespace lift::jinja
