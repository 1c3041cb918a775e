#include "server/tokenizer/template_lexer.h"

#include <algorithm>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "server/tokenizer/template_text.h"
#include "server/tokenizer/utf8.h"

namespace lift::jinja {
namespace {

constexpr const char* kOperators[] = {"==", "!=", "<=", ">=", "//", "**", "+", "-", "*",
                                      "/",  "%",  "~",  "<",  ">",  "=",  "(", ")", "[",
                                      "]",  "{",  "}",  ",",  ".",  ":",  "|"};

// \r\n and \r become \n; one newline at the very end is dropped.
std::string NormalizeNewlines(const std::string& source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out += source[i];
    } else {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (at_ < source_.size()) LIFT_RETURN_IF_ERROR(TextThenTag());
    Push(Token::kEnd, "");
    return std::move(tokens_);
  }

 private:
  absl::Status Invalid(absl::string_view message) const {
    return absl::InvalidArgumentError(absl::StrCat("Chat template line ", line_, ": ", message));
  }
  bool At(std::string_view what) const {
    return std::string_view(source_).substr(at_).starts_with(what);
  }
  void Push(Token::Kind kind, std::string text, int64_t number = 0) {
    tokens_.push_back({kind, std::move(text), number, line_});
  }
  void Advance(size_t count) {
    line_ +=
        static_cast<int>(std::count(source_.begin() + at_, source_.begin() + at_ + count, '\n'));
    at_ += count;
  }

  // Start of the next "{{", "{%" or "{#", or the end.
  size_t NextTag() const {
    for (size_t i = source_.find('{', at_); i != std::string::npos && i + 1 < source_.size();
         i = source_.find('{', i + 1)) {
      if (source_[i + 1] == '{' || source_[i + 1] == '%' || source_[i + 1] == '#') return i;
    }
    return source_.size();
  }

  absl::Status TextThenTag() {
    const size_t tag = NextTag();
    std::string_view text = std::string_view(source_).substr(at_, tag - at_);
    if (tag < source_.size()) {
      const char sign = tag + 2 < source_.size() ? source_[tag + 2] : ' ';
      if (sign == '-') {
        text = Strip(text, Side::kRight);
      } else if (sign != '+' && source_[tag + 1] != '{') {
        text = StripIndent(text);
      }
    }
    if (!text.empty()) Push(Token::kText, std::string(text));
    Advance(tag - at_);
    return at_ == source_.size() ? absl::OkStatus() : Tag();
  }

  // lstrip_blocks: white space between the start of a line and a block tag.
  std::string_view StripIndent(std::string_view text) const {
    const size_t newline = text.rfind('\n');
    const size_t line_start = newline == std::string_view::npos ? 0 : newline + 1;
    const bool starts_line =
        newline != std::string_view::npos || at_ == 0 || source_[at_ - 1] == '\n';
    return starts_line && Strip(text.substr(line_start), Side::kBoth).empty()
               ? text.substr(0, line_start)
               : text;
  }

  absl::Status Tag() {
    const char kind = source_[at_ + 1];
    Advance(2);
    if (kind == '#') {
      const size_t close = source_.find("#}", at_);
      if (close == std::string::npos) return Invalid("a comment is not closed");
      const char sign = close > at_ ? source_[close - 1] : ' ';
      Advance(close - at_);
      return CloseTag(2, sign, true);
    }
    if (at_ < source_.size() && (source_[at_] == '-' || source_[at_] == '+')) Advance(1);
    Push(kind == '%' ? Token::kBlockBegin : Token::kOutputBegin, "");
    const std::string close = kind == '%' ? "%}" : "}}";
    int depth = 0;  // of brackets: "}}" may also end two dictionaries
    while (true) {
      while (at_ < source_.size() && absl::ascii_isspace(source_[at_])) Advance(1);
      if (at_ >= source_.size()) return Invalid("a tag is not closed");
      const bool sign =
          (source_[at_] == '-' || source_[at_] == '+') && source_.compare(at_ + 1, 2, close) == 0;
      if (depth == 0 && (sign || At(close))) {
        Push(kind == '%' ? Token::kBlockEnd : Token::kOutputEnd, "");
        return CloseTag(sign ? 3 : 2, sign ? source_[at_] : ' ', kind == '%');
      }
      LIFT_RETURN_IF_ERROR(InsideTag(depth));
    }
  }

  // Consumes the closing tag and the white space that it takes with it.
  absl::Status CloseTag(size_t length, char sign, bool trims_newline) {
    Advance(length);
    if (sign == '-') {
      const std::string_view rest = std::string_view(source_).substr(at_);
      Advance(rest.size() - Strip(rest, Side::kLeft).size());
    } else if (sign != '+' && trims_newline && At("\n")) {
      Advance(1);
    }
    return absl::OkStatus();
  }

  absl::Status InsideTag(int& depth) {
    const char c = source_[at_];
    if (absl::ascii_isalpha(c) || c == '_') {
      size_t end = at_;
      while (end < source_.size() && (absl::ascii_isalnum(source_[end]) || source_[end] == '_'))
        ++end;
      Push(Token::kName, source_.substr(at_, end - at_));
      Advance(end - at_);
      return absl::OkStatus();
    }
    if (absl::ascii_isdigit(c)) return Integer();
    if (c == '\'' || c == '"') return String(c);
    for (const std::string_view op : kOperators) {
      if (!At(op)) continue;
      if (op == "(" || op == "[" || op == "{") ++depth;
      if (op == ")" || op == "]" || op == "}") --depth;
      if (depth < 0) return Invalid("a bracket is closed that was not opened");
      Push(Token::kOperator, std::string(op));
      Advance(op.size());
      return absl::OkStatus();
    }
    return Invalid(absl::StrCat("unexpected character \"", source_.substr(at_, 1), "\""));
  }

  absl::Status Integer() {
    size_t end = at_;
    int64_t value = 0;
    while (end < source_.size() && (absl::ascii_isdigit(source_[end]) || source_[end] == '_')) {
      if (source_[end] != '_' && (__builtin_mul_overflow(value, 10, &value) ||
                                  __builtin_add_overflow(value, source_[end] - '0', &value))) {
        return Invalid("a number is too large");
      }
      ++end;
    }
    if (end + 1 < source_.size() && source_[end] == '.' && absl::ascii_isdigit(source_[end + 1])) {
      return absl::UnimplementedError(
          absl::StrCat("Chat template line ", line_, ": floating-point numbers are not supported"));
    }
    Push(Token::kInteger, "", value);
    Advance(end - at_);
    return absl::OkStatus();
  }

  absl::Status String(char quote) {
    std::string out;
    const int line = line_;
    size_t i = at_ + 1;
    for (; i < source_.size() && source_[i] != quote; ++i) {
      if (source_[i] != '\\' || i + 1 >= source_.size()) {
        out += source_[i];
      } else if (!Escape(i, out)) {
        return Invalid("a string has a malformed escape");
      }
    }
    if (i >= source_.size()) return Invalid("a string is not closed");
    Advance(i + 1 - at_);
    tokens_.push_back({Token::kString, std::move(out), 0, line});
    return absl::OkStatus();
  }

  // Decodes the escape at `i`, which is left at its last character.
  bool Escape(size_t& i, std::string& out) const {
    static constexpr std::string_view kFrom = "ntrbfva\\'\"", kTo = "\n\t\r\b\f\v\a\\'\"";
    const char c = source_[++i];
    if (const size_t k = kFrom.find(c); k != std::string_view::npos) {
      out += kTo[k];
      return true;
    }
    if (c == '\n') return true;  // a continued line
    const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits == 0 && (c < '0' || c > '7')) {
      out += '\\';
      out += c;
      return true;
    }
    const int base = digits > 0 ? 16 : 8;
    size_t k = digits > 0 ? i + 1 : i;
    const size_t end = digits > 0 ? i + 1 + digits : i + 3;
    uint32_t code = 0;
    for (; k < end; ++k) {
      const char d = k < source_.size() ? source_[k] : ' ';
      const bool fits = base == 16 ? absl::ascii_isxdigit(d) : (d >= '0' && d <= '7');
      if (!fits) break;
      code = code * static_cast<uint32_t>(base) +
             static_cast<uint32_t>(d <= '9' ? d - '0' : absl::ascii_tolower(d) - 'a' + 10);
    }
    if ((digits > 0 && k != end) || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
      return false;
    AppendUtf8(code, out);
    i = k - 1;
    return true;
  }

  const std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

absl::StatusOr<std::vector<Token>> Tokenize(const std::string& source) {
  return Lexer(NormalizeNewlines(source)).Run();
}

}  // namespace lift::jinja
