#include "server/constraint/regex.h"

#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "server/constraint/limits.h"
#include "server/tokenizer/utf8.h"

namespace lift {
namespace {

constexpr std::string_view kSyntax = "\\^$.[]|()?*+{}/-";

class RegexParser {
 public:
  RegexParser(std::string_view pattern, const RegexOptions& options, Grammar& grammar)
      : text_(pattern), options_(options), grammar_(grammar) {}

  absl::StatusOr<int> Run() {
    std::vector<int> alternatives;
    do {
      LIFT_ASSIGN_OR_RETURN(const int alternative, Alternative(/*outermost=*/true));
      alternatives.push_back(alternative);
    } while (Eat('|'));
    if (!AtEnd()) return Wrong("')' closes no group; write \\) for a parenthesis");
    return grammar_.Choice(std::move(alternatives));
  }

 private:
  template <class... Parts>
  absl::Status Wrong(const Parts&... parts) const {
    return absl::InvalidArgumentError(absl::StrCat("at byte ", at_, ": ", parts...));
  }
  bool AtEnd() const { return at_ >= text_.size(); }
  bool Peek(char c) const { return !AtEnd() && text_[at_] == c; }
  bool Eat(char c) {
    if (!Peek(c)) return false;
    ++at_;
    return true;
  }
  bool Eat(std::string_view word) {
    if (!text_.substr(at_).starts_with(word)) return false;
    at_ += word.size();
    return true;
  }
  int Characters(CodePoints set) {
    set = Normalized(std::move(set));
    return options_.characters ? options_.characters(grammar_, set) : grammar_.Class(set);
  }
  int Anything() { return grammar_.Repeat(Characters(Complement({})), 0, kUnlimited); }

  absl::StatusOr<int> Alternative(bool outermost) {
    std::vector<int> parts;
    const bool from_start = outermost && Eat('^');
    bool to_end = false;
    while (!AtEnd() && !Peek('|') && !Peek(')')) {
      if (outermost && Peek('$') && (at_ + 1 == text_.size() || text_[at_ + 1] == '|')) {
        to_end = Eat('$');
        break;
      }
      LIFT_ASSIGN_OR_RETURN(const int part, Repeated());
      parts.push_back(part);
    }
    if (outermost && options_.search) {
      if (!from_start) parts.insert(parts.begin(), Anything());
      if (!to_end) parts.push_back(Anything());
    }
    if (parts.empty()) return grammar_.Text("");
    return grammar_.Sequence(std::move(parts));
  }

  absl::StatusOr<int> Repeated() {
    LIFT_ASSIGN_OR_RETURN(const int atom, Atom());
    int least = 1, most = 1;
    if (Eat('*')) {
      least = 0, most = kUnlimited;
    } else if (Eat('+')) {
      most = kUnlimited;
    } else if (Eat('?')) {
      least = 0;
    } else if (Peek('{')) {
      LIFT_RETURN_IF_ERROR(Counts(least, most));
    } else {
      return atom;
    }
    Eat('?');  // lazy: the same texts
    if (Peek('+')) return Wrong("possessive quantifiers are not supported");
    if (Peek('*') || Peek('?') || Peek('{')) return Wrong("a quantifier follows a quantifier");
    return grammar_.Repeat(atom, least, most);
  }

  absl::StatusOr<int> Count() {
    int value = 0;
    const size_t start = at_;
    while (!AtEnd() && text_[at_] >= '0' && text_[at_] <= '9' && value <= kMaxRepetitions) {
      value = value * 10 + (text_[at_++] - '0');
    }
    if (at_ == start) return Wrong("a repetition is {m}, {m,} or {m,n}; write \\{ for a brace");
    if (value > kMaxRepetitions) {
      return Wrong("more than ", kMaxRepetitions, " repetitions are not supported");
    }
    return value;
  }

  absl::Status Counts(int& least, int& most) {
    Eat('{');
    LIFT_ASSIGN_OR_RETURN(least, Count());
    most = least;
    if (Eat(',')) {
      most = kUnlimited;
      if (!Peek('}')) {
        LIFT_ASSIGN_OR_RETURN(most, Count());
      }
    }
    if (!Eat('}')) return Wrong("'}' is missing");
    if (most != kUnlimited && most < least) return Wrong("the bounds of {m,n} are out of order");
    return absl::OkStatus();
  }

  absl::StatusOr<int> Atom() {
    const char c = text_[at_];
    if (c == '(') return Group();
    if (c == '[') {
      LIFT_ASSIGN_OR_RETURN(CodePoints set, Bracket());
      return Characters(std::move(set));
    }
    if (c == '.') {
      ++at_;
      return Characters(Complement({{'\n', '\n'}}));
    }
    if (c == '*' || c == '+' || c == '?' || c == '{') {
      return Wrong("'", std::string(1, c), "' has nothing to repeat; write \\", std::string(1, c),
                   " for the character");
    }
    if (c == '^' || c == '$') {
      return Wrong("'", std::string(1, c), "' is supported at the ends of the pattern only");
    }
    if (c == '\\') {
      ++at_;
      LIFT_ASSIGN_OR_RETURN(CodePoints set, Escape(/*in_class=*/false));
      return Characters(std::move(set));
    }
    LIFT_ASSIGN_OR_RETURN(const char32_t code, CodePoint());
    return Characters({{code, code}});
  }

  absl::StatusOr<int> Group() {
    if (++nesting_ > kMaxNesting) return Wrong("groups nest deeper than ", kMaxNesting);
    Eat('(');
    if (Eat("?")) {
      if (Eat("=") || Eat("!")) return Wrong("lookahead is not supported");
      if (Eat("<=") || Eat("<!")) return Wrong("lookbehind is not supported");
      if (Eat(">")) return Wrong("atomic groups are not supported");
      if (Eat("P<") || Eat("<")) {
        while (!AtEnd() && !Peek('>')) ++at_;
        if (!Eat('>')) return Wrong("'>' is missing after the group's name");
      } else if (!Eat(":")) {
        return Wrong("flags in the pattern, as (?i), are not supported");
      }
    }
    std::vector<int> alternatives;
    do {
      LIFT_ASSIGN_OR_RETURN(const int alternative, Alternative(/*outermost=*/false));
      alternatives.push_back(alternative);
    } while (Eat('|'));
    if (!Eat(')')) return Wrong("')' is missing");
    --nesting_;
    return grammar_.Choice(std::move(alternatives));
  }

  absl::StatusOr<char32_t> CodePoint() {
    const Utf8Step step = ReadUtf8(text_.substr(at_));
    if (step.kind != Utf8Step::kValid) return Wrong("is not UTF-8");
    at_ += step.length;
    return step.code_point;
  }

  absl::StatusOr<char32_t> Hex(size_t least, size_t most) {
    char32_t code = 0;
    size_t digits = 0;
    for (; digits < most && !AtEnd(); ++digits, ++at_) {
      const char c = text_[at_];
      if (c >= '0' && c <= '9') {
        code = code * 16 + static_cast<char32_t>(c - '0');
      } else if ((c | 32) >= 'a' && (c | 32) <= 'f') {
        code = code * 16 + static_cast<char32_t>((c | 32) - 'a' + 10);
      } else {
        break;
      }
    }
    if (digits < least || code > kMaxCodePoint) return Wrong("is no hexadecimal code point");
    return code;
  }

  // After the backslash.
  absl::StatusOr<CodePoints> Escape(bool in_class) {
    if (AtEnd()) return Wrong("the pattern ends with a backslash");
    const char c = text_[at_];
    const auto one = [](char32_t code) { return CodePoints{{code, code}}; };
    if (kSyntax.find(c) != std::string_view::npos || static_cast<unsigned char>(c) >= 0x80 ||
        std::string_view(" !\"#%&',:;<=>@_`~").find(c) != std::string_view::npos) {
      LIFT_ASSIGN_OR_RETURN(const char32_t code, CodePoint());
      return one(code);
    }
    ++at_;
    if (CodePoints set = ShorthandClass(static_cast<char>(c | 32)); !set.empty()) {
      return (c & 32) != 0 ? set : Complement(set);
    }
    static constexpr std::string_view kLetters = "tnrfv0", kMeanings{"\t\n\r\f\v\0", 6};
    if (const size_t i = kLetters.find(c); i != std::string_view::npos) {
      if (c == '0' && !AtEnd() && text_[at_] >= '0' && text_[at_] <= '9') {
        return Wrong("octal escapes are not supported");
      }
      return one(static_cast<unsigned char>(kMeanings[i]));
    }
    if (c == 'b' && in_class) return one('\b');
    if (c == 'x' || c == 'u') {
      const bool braces = Eat('{');
      const size_t digits = c == 'x' ? 2 : 4;
      LIFT_ASSIGN_OR_RETURN(const char32_t code, braces ? Hex(1, 6) : Hex(digits, digits));
      if (braces && !Eat('}')) return Wrong("'}' is missing");
      return one(code);
    }
    if (c >= '1' && c <= '9') return Wrong("back references are not supported");
    return Wrong("the escape \\", std::string(1, c), " is not supported");
  }

  // One member of a class: a code point, or a shorthand's set.
  absl::StatusOr<CodePoints> Member() {
    if (Peek('[') && at_ + 1 < text_.size() && text_[at_ + 1] == ':') {
      return Wrong("POSIX classes, as [:alpha:], are not supported");
    }
    if (Eat('\\')) return Escape(/*in_class=*/true);
    LIFT_ASSIGN_OR_RETURN(const char32_t code, CodePoint());
    return CodePoints{{code, code}};
  }

  absl::StatusOr<CodePoints> Bracket() {
    Eat('[');
    const bool negated = Eat('^');
    CodePoints set;
    if (Peek(']')) return Wrong("an empty class is not supported; write \\] for a bracket");
    while (!AtEnd() && !Peek(']')) {
      LIFT_ASSIGN_OR_RETURN(CodePoints low, Member());
      const bool single = low.size() == 1 && low[0].first == low[0].second;
      if (Peek('-') && at_ + 1 < text_.size() && text_[at_ + 1] != ']') {
        Eat('-');
        LIFT_ASSIGN_OR_RETURN(const CodePoints high, Member());
        if (!single || high.size() != 1 || high[0].first != high[0].second) {
          return Wrong("a range needs single characters at both ends");
        }
        if (high[0].first < low[0].first) return Wrong("a range is out of order");
        low[0].second = high[0].first;
      }
      set.insert(set.end(), low.begin(), low.end());
    }
    if (!Eat(']')) return Wrong("']' is missing");
    set = Normalized(std::move(set));
    return negated ? Complement(set) : set;
  }

  const std::string_view text_;
  const RegexOptions& options_;
  Grammar& grammar_;
  size_t at_ = 0;
  int nesting_ = 0;
};

}  // namespace

CodePoints ShorthandClass(char letter) {
  switch (letter) {
    case 'd':
      return {{'0', '9'}};
    case 'w':
      return {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
    case 's':
      return {{'\t', '\r'}, {' ', ' '}};
    default:
      return {};
  }
}

absl::StatusOr<int> ParseRegex(std::string_view pattern, const RegexOptions& options,
                               Grammar& grammar) {
  return RegexParser(pattern, options, grammar).Run();
}

}  // namespace lift
