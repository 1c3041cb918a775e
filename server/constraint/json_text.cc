#include "server/constraint/json_text.h"

#include <algorithm>
#include <map>

#include "server/tokenizer/utf8.h"

namespace lift {
namespace {

// Characters that a string literal shows as they are.
const CodePoints& Plain() {
  static const CodePoints plain = Complement(Normalized({{0, 0x1F}, {'"', '"'}, {'\\', '\\'}}));
  return plain;
}

std::u32string CodePointsOf(const std::string& text) {
  std::u32string out;
  std::string_view rest = text;
  while (!rest.empty()) {
    const Utf8Step step = ReadUtf8(rest);
    out.push_back(step.kind == Utf8Step::kValid ? step.code_point : 0xFFFD);
    rest.remove_prefix(step.length);
  }
  return out;
}

}  // namespace

int JsonText::Comma() {
  return grammar_.Sequence({grammar_.Text(","), grammar_.Optional(grammar_.Text(" "))});
}

int JsonText::Colon() {
  return grammar_.Sequence({grammar_.Text(":"), grammar_.Optional(grammar_.Text(" "))});
}

int JsonText::Character(const CodePoints& set) {
  static const std::map<char32_t, const char*> kEscapes = {
      {'"', "\\\""}, {'\\', "\\\\"}, {'\b', "\\b"}, {'\f', "\\f"},
      {'\n', "\\n"}, {'\r', "\\r"},  {'\t', "\\t"}};
  std::vector<int> ways = {grammar_.Class(Intersection(set, Plain()))};
  for (const auto& [code, escape] : kEscapes) {
    if (!Intersection(set, {{code, code}}).empty()) ways.push_back(grammar_.Text(escape));
  }
  return grammar_.Choice(std::move(ways));
}

int JsonText::Quoted(int content) {
  return grammar_.Sequence({grammar_.Text("\""), content, grammar_.Text("\"")});
}

int JsonText::String(int least, int most) {
  const auto any = [&] { return Character(Complement({})); };
  if (least > 0 || most != kUnlimited) return Quoted(grammar_.Repeat(any(), least, most));
  if (string_rule_ < 0) {
    string_rule_ = grammar_.AddRule("string", Quoted(grammar_.Repeat(any(), 0, kUnlimited)));
  }
  return grammar_.Call(string_rule_);
}

int JsonText::Boolean() { return grammar_.Choice({Literal("true"), Literal("false")}); }

int JsonText::AnyObject() {
  if (object_rule_ < 0) {
    object_rule_ = grammar_.AddRule("object");
    const int pair = grammar_.Sequence({String(0, kUnlimited), Colon(), AnyValue()});
    const int more = grammar_.Repeat(grammar_.Sequence({Comma(), pair}), 0, kUnlimited);
    grammar_.rules[static_cast<size_t>(object_rule_)].node =
        grammar_.Sequence({grammar_.Text("{"), grammar_.Optional(grammar_.Sequence({pair, more})),
                           grammar_.Text("}")});
  }
  return grammar_.Call(object_rule_);
}

int JsonText::AnyArray() {
  if (array_rule_ < 0) {
    array_rule_ = grammar_.AddRule("array");
    const int value = AnyValue();
    const int more = grammar_.Repeat(grammar_.Sequence({Comma(), value}), 0, kUnlimited);
    grammar_.rules[static_cast<size_t>(array_rule_)].node =
        grammar_.Sequence({grammar_.Text("["), grammar_.Optional(grammar_.Sequence({value, more})),
                           grammar_.Text("]")});
  }
  return grammar_.Call(array_rule_);
}

int JsonText::AnyValue() {
  if (value_rule_ < 0) {
    value_rule_ = grammar_.AddRule("value");
    const int node = grammar_.Choice(
        {AnyObject(), AnyArray(), String(0, kUnlimited), Number({}), Boolean(), Literal("null")});
    grammar_.rules[static_cast<size_t>(value_rule_)].node = node;
  }
  return grammar_.Call(value_rule_);
}

// ---- numbers ----

int JsonText::Digits(size_t count) {
  return grammar_.Repeat(grammar_.Class({{'0', '9'}}), static_cast<int>(count),
                         static_cast<int>(count));
}

// Numbers from `low` to `high`, both of the same number of digits.
int JsonText::SameLength(const std::string& low, const std::string& high) {
  if (low.empty()) return grammar_.Text("");
  const auto digit = [](char c) { return static_cast<char32_t>(c); };
  const std::string low_rest = low.substr(1), high_rest = high.substr(1);
  const std::string first_low = low.substr(0, 1), first_high = high.substr(0, 1);
  if (low[0] == high[0]) {
    return grammar_.Sequence({grammar_.Text(first_low), SameLength(low_rest, high_rest)});
  }
  std::vector<int> ways = {
      grammar_.Sequence(
          {grammar_.Text(first_low), SameLength(low_rest, std::string(low_rest.size(), '9'))}),
      grammar_.Sequence(
          {grammar_.Text(first_high), SameLength(std::string(high_rest.size(), '0'), high_rest)})};
  if (low[0] + 1 < high[0]) {
    ways.push_back(grammar_.Sequence(
        {grammar_.Class({{digit(low[0]) + 1, digit(high[0]) - 1}}), Digits(low_rest.size())}));
  }
  return grammar_.Choice(std::move(ways));
}

// Whole numbers from `least` >= 0 on, without a sign.
int JsonText::Magnitude(int64_t least, std::optional<int64_t> most) {
  std::vector<int> ways;
  const std::string low = std::to_string(least);
  const size_t last = most ? std::to_string(*most).size() : low.size();
  for (size_t size = low.size(); size <= last; ++size) {
    std::string from = low, to(size, '9');
    if (size > low.size()) from = "1" + std::string(size - 1, '0');
    if (most && size == last) to = std::to_string(*most);
    if (from <= to) ways.push_back(SameLength(from, to));
  }
  if (!most) {
    ways.push_back(grammar_.Sequence(
        {grammar_.Class({{'1', '9'}}),
         grammar_.Repeat(grammar_.Class({{'0', '9'}}), static_cast<int>(low.size()), kUnlimited)}));
  }
  return grammar_.Choice(std::move(ways));
}

int JsonText::Integer(const NumberBounds& bounds) {
  std::optional<int64_t> least = bounds.least, most = bounds.most;
  if (least && bounds.above_least) ++*least;
  if (most && bounds.below_most) --*most;
  if (least && most && *least > *most) return grammar_.Class({});
  std::vector<int> ways;
  if (!most || *most >= 0) ways.push_back(Magnitude(std::max<int64_t>(least.value_or(0), 0), most));
  if (!least || *least < 0) {
    const auto from = std::max<int64_t>(1, -most.value_or(-1));
    const auto to = least ? std::optional<int64_t>(-*least) : std::nullopt;
    ways.push_back(grammar_.Sequence({grammar_.Text("-"), Magnitude(from, to)}));
  }
  return grammar_.Choice(std::move(ways));
}

// Numbers without sign or exponent; magnitude.least is given and not below 0.
int JsonText::Fractional(const NumberBounds& m) {
  const auto digit = [&] { return grammar_.Class({{'0', '9'}}); };
  const auto digits = [&](int least) { return grammar_.Repeat(digit(), least, kUnlimited); };
  const auto fraction = [&] {
    return grammar_.Optional(grammar_.Sequence({grammar_.Text("."), digits(1)}));
  };
  const auto zeros = [&] {
    return grammar_.Optional(grammar_.Sequence(
        {grammar_.Text("."), grammar_.Repeat(grammar_.Text("0"), 1, kUnlimited)}));
  };
  const auto above_zero = [&] {
    return grammar_.Sequence(
        {grammar_.Text("."), digits(0), grammar_.Class({{'1', '9'}}), digits(0)});
  };
  const auto whole = [&](int64_t n) { return grammar_.Text(std::to_string(n)); };
  const int64_t least = *m.least;
  std::vector<int> ways;
  if (m.most && least > *m.most) return grammar_.Class({});
  if (m.most && least == *m.most) {
    if (m.above_least || m.below_most) return grammar_.Class({});
    return grammar_.Sequence({whole(least), zeros()});
  }
  ways.push_back(grammar_.Sequence({whole(least), m.above_least ? above_zero() : fraction()}));
  if (!m.most) {
    ways.push_back(grammar_.Sequence({Magnitude(least + 1, std::nullopt), fraction()}));
    return grammar_.Choice(std::move(ways));
  }
  if (least + 1 < *m.most) {
    ways.push_back(grammar_.Sequence({Magnitude(least + 1, *m.most - 1), fraction()}));
  }
  if (!m.below_most) ways.push_back(grammar_.Sequence({whole(*m.most), zeros()}));
  return grammar_.Choice(std::move(ways));
}

int JsonText::Number(const NumberBounds& bounds) {
  const auto digit = [&] { return grammar_.Class({{'0', '9'}}); };
  if (!bounds.any()) {
    const int digits = grammar_.Repeat(digit(), 1, kUnlimited);
    const int whole = grammar_.Choice(
        {grammar_.Text("0"), grammar_.Sequence({grammar_.Class({{'1', '9'}}),
                                                grammar_.Repeat(digit(), 0, kUnlimited)})});
    // An exponent of more digits is out of the range of a double.
    const int exponent =
        grammar_.Sequence({grammar_.Class({{'e', 'e'}, {'E', 'E'}}),
                           grammar_.Optional(grammar_.Class({{'+', '+'}, {'-', '-'}})),
                           grammar_.Repeat(digit(), 1, 2)});
    return grammar_.Sequence({grammar_.Optional(grammar_.Text("-")), whole,
                              grammar_.Optional(grammar_.Sequence({grammar_.Text("."), digits})),
                              grammar_.Optional(exponent)});
  }
  std::vector<int> ways;
  const auto& [least, most, above, below] = bounds;
  if (!most || *most > 0 || (*most == 0 && !below)) {
    NumberBounds positive;
    positive.least = 0;
    positive.most = most;
    positive.below_most = below;
    if (least && *least >= 0) {
      positive.least = least;
      positive.above_least = above;
    }
    ways.push_back(Fractional(positive));
  }
  if (!least || *least < 0) {
    NumberBounds negative;
    negative.least = 0;
    negative.above_least = true;
    if (least) {
      negative.most = -*least;
      negative.below_most = above;
    }
    if (most && *most < 0) {
      negative.least = -*most;
      negative.above_least = below;
    }
    ways.push_back(grammar_.Sequence({grammar_.Text("-"), Fractional(negative)}));
  }
  if (ways.empty()) return grammar_.Class({});
  return grammar_.Choice(std::move(ways));
}

// ---- strings that are not some names ----

// Content that is none of `names`; they are sorted by their first characters.
int JsonText::OtherThan(std::vector<std::u32string> names) {
  std::map<char32_t, std::vector<std::u32string>> by_first;
  bool ends = false;
  for (const std::u32string& name : names) {
    if (name.empty()) {
      ends = true;
    } else {
      by_first[name[0]].push_back(name.substr(1));
    }
  }
  // Plain characters only: an escape could spell a name.
  std::vector<int> ways;
  CodePoints firsts;
  for (auto& [first, rest] : by_first) {
    firsts.emplace_back(first, first);
    if (Intersection(Plain(), {{first, first}}).empty()) continue;
    ways.push_back(
        grammar_.Sequence({grammar_.Class({{first, first}}), OtherThan(std::move(rest))}));
  }
  ways.push_back(
      grammar_.Sequence({grammar_.Class(Intersection(Plain(), Complement(Normalized(firsts)))),
                         grammar_.Repeat(grammar_.Class(Plain()), 0, kUnlimited)}));
  const int other = grammar_.Choice(std::move(ways));
  return ends ? other : grammar_.Optional(other);
}

int JsonText::StringOtherThan(const std::vector<std::string>& names) {
  std::vector<std::u32string> wanted;
  for (const std::string& name : names) wanted.push_back(CodePointsOf(name));
  return Quoted(OtherThan(std::move(wanted)));
}

}  // namespace lift
