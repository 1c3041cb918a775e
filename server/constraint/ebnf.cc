#include "server/constraint/ebnf.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "server/constraint/limits.h"
#include "server/tokenizer/utf8.h"

namespace lift {
namespace {

bool IsNameByte(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-';
}

class EbnfParser {
 public:
  explicit EbnfParser(std::string_view text) : text_(text) {}

  absl::StatusOr<Grammar> Run() {
    RuleNamed("root");  // the first rule
    for (Skip(); !AtEnd(); Skip()) {
      const std::string name = Name();
      if (name.empty()) return Wrong("a rule begins with its name");
      Skip();
      if (!Eat("::=")) return Wrong("'::=' is missing after '", name, "'");
      const int rule = RuleNamed(name);
      if (grammar_.rules[static_cast<size_t>(rule)].node >= 0) {
        return Wrong("rule '", name, "' is defined twice");
      }
      LIFT_ASSIGN_OR_RETURN(const int node, Alternatives());
      grammar_.rules[static_cast<size_t>(rule)].node = node;
    }
    for (const Grammar::Rule& rule : grammar_.rules) {
      if (rule.node >= 0) continue;
      return absl::InvalidArgumentError(absl::StrCat("rule '", rule.name, "' is not defined"));
    }
    return std::move(grammar_);
  }

 private:
  template <class... Parts>
  absl::Status Wrong(const Parts&... parts) const {
    const auto line =
        std::count(text_.begin(), text_.begin() + static_cast<std::ptrdiff_t>(at_), '\n');
    return absl::InvalidArgumentError(absl::StrCat("line ", line + 1, ": ", parts...));
  }
  bool AtEnd() const { return at_ >= text_.size(); }
  bool Peek(char c) const { return !AtEnd() && text_[at_] == c; }
  bool Eat(std::string_view word) {
    if (!text_.substr(at_).starts_with(word)) return false;
    at_ += word.size();
    return true;
  }
  // Spaces, line ends and comments.
  void Skip() {
    while (!AtEnd()) {
      if (Peek('#')) {
        while (!AtEnd() && !Peek('\n')) ++at_;
      } else if (std::isspace(static_cast<unsigned char>(text_[at_])) != 0) {
        ++at_;
      } else {
        return;
      }
    }
  }
  std::string Name() {
    const size_t start = at_;
    while (!AtEnd() && IsNameByte(text_[at_])) ++at_;
    return std::string(text_.substr(start, at_ - start));
  }
  int RuleNamed(const std::string& name) {
    const auto [it, added] = rules_.try_emplace(name, 0);
    if (added) it->second = grammar_.AddRule(name);
    return it->second;
  }
  // A name with '::=' behind it begins the next rule.
  bool AtRule() {
    const size_t start = at_;
    const bool named = !Name().empty();
    Skip();
    const bool rule = named && text_.substr(at_).starts_with("::=");
    at_ = start;
    return rule;
  }

  absl::StatusOr<int> Alternatives() {
    if (++nesting_ > kMaxNesting) return Wrong("groups nest deeper than ", kMaxNesting);
    std::vector<int> alternatives;
    do {
      LIFT_ASSIGN_OR_RETURN(const int sequence, Sequence());
      alternatives.push_back(sequence);
      Skip();
    } while (Eat("|"));
    --nesting_;
    return grammar_.Choice(std::move(alternatives));
  }

  absl::StatusOr<int> Sequence() {
    std::vector<int> parts;
    for (Skip(); !AtEnd() && !Peek('|') && !Peek(')'); Skip()) {
      if (IsNameByte(text_[at_]) && AtRule()) break;
      LIFT_ASSIGN_OR_RETURN(int part, Item());
      LIFT_ASSIGN_OR_RETURN(part, Repeated(part));
      parts.push_back(part);
    }
    if (parts.empty()) return grammar_.Text("");
    return grammar_.Sequence(std::move(parts));
  }

  absl::StatusOr<int> Count() {
    const size_t start = at_;
    int value = 0;
    while (!AtEnd() && std::isdigit(static_cast<unsigned char>(text_[at_])) != 0 &&
           value <= kMaxRepetitions) {
      value = value * 10 + (text_[at_++] - '0');
    }
    if (at_ == start) return Wrong("a repetition is {m}, {m,} or {m,n}");
    if (value > kMaxRepetitions) return Wrong("more than ", kMaxRepetitions, " repetitions");
    return value;
  }

  absl::StatusOr<int> Repeated(int part) {
    if (Eat("*")) return grammar_.Repeat(part, 0, kUnlimited);
    if (Eat("+")) return grammar_.Repeat(part, 1, kUnlimited);
    if (Eat("?")) return grammar_.Optional(part);
    if (!Eat("{")) return part;
    LIFT_ASSIGN_OR_RETURN(const int least, Count());
    int most = least;
    if (Eat(",")) {
      most = kUnlimited;
      if (!Peek('}')) {
        LIFT_ASSIGN_OR_RETURN(most, Count());
      }
    }
    if (!Eat("}")) return Wrong("'}' is missing");
    if (most != kUnlimited && most < least) return Wrong("the bounds of {m,n} are out of order");
    return grammar_.Repeat(part, least, most);
  }

  absl::StatusOr<int> Item() {
    if (Eat("\"")) return Literal();
    if (Eat("[")) return Class();
    if (Eat(".")) return grammar_.Class(Complement({}));
    if (Eat("(")) {
      LIFT_ASSIGN_OR_RETURN(const int group, Alternatives());
      if (!Eat(")")) return Wrong("')' is missing");
      return group;
    }
    const std::string name = Name();
    if (name.empty()) {
      return Wrong("'", std::string(text_.substr(at_, 1)),
                   "' begins no literal, class, group or rule name");
    }
    return grammar_.Call(RuleNamed(name));
  }

  absl::StatusOr<char32_t> Character() {
    if (Eat("\\")) return Escape();
    const Utf8Step step = ReadUtf8(text_.substr(at_));
    if (step.kind != Utf8Step::kValid) return Wrong("is not UTF-8");
    at_ += step.length;
    return step.code_point;
  }

  absl::StatusOr<char32_t> Escape() {
    const char c = AtEnd() ? '\0' : text_[at_++];
    static constexpr std::string_view kLetters = "nrt\\\"[]-^", kMeanings = "\n\r\t\\\"[]-^";
    if (const size_t i = kLetters.find(c); i != std::string_view::npos && c != '\0') {
      return static_cast<unsigned char>(kMeanings[i]);
    }
    const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits == 0) return Wrong("unknown escape in a literal or class");
    uint64_t code = 0;
    for (size_t i = 0; i < digits; ++i) {
      const auto digit = static_cast<unsigned char>(AtEnd() ? ' ' : text_[at_++]);
      if (std::isxdigit(digit) == 0)
        return Wrong("\\", std::string(1, c), " needs hexadecimal digits");
      code =
          code * 16 + static_cast<uint64_t>(digit <= '9' ? digit - '0' : (digit | 32) - 'a' + 10);
    }
    if (code > kMaxCodePoint) return Wrong("is no code point");
    return static_cast<char32_t>(code);
  }

  absl::StatusOr<int> Literal() {
    std::string literal;
    while (!AtEnd() && !Peek('"')) {
      LIFT_ASSIGN_OR_RETURN(const char32_t code, Character());
      if (code >= 0xD800 && code <= 0xDFFF) return Wrong("a surrogate has no UTF-8");
      AppendUtf8(code, literal);
    }
    if (!Eat("\"")) return Wrong("the literal has no end");
    return grammar_.Text(literal);
  }

  absl::StatusOr<int> Class() {
    const bool negated = Eat("^");
    CodePoints set;
    while (!AtEnd() && !Peek(']')) {
      LIFT_ASSIGN_OR_RETURN(const char32_t low, Character());
      char32_t high = low;
      if (Peek('-') && at_ + 1 < text_.size() && text_[at_ + 1] != ']') {
        Eat("-");
        LIFT_ASSIGN_OR_RETURN(high, Character());
        if (high < low) return Wrong("a range is out of order");
      }
      set.emplace_back(low, high);
    }
    if (!Eat("]")) return Wrong("']' is missing");
    set = Normalized(std::move(set));
    return grammar_.Class(negated ? Complement(set) : set);
  }

  const std::string_view text_;
  size_t at_ = 0;
  int nesting_ = 0;
  Grammar grammar_;
  std::map<std::string, int> rules_;
};

}  // namespace

absl::StatusOr<Grammar> ParseEbnf(std::string_view text) { return EbnfParser(text).Run(); }

}  // namespace lift
