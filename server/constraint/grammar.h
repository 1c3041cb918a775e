// What every kind of constraint becomes: rules over text, a context-free grammar.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lift {

// Ranges of code points, both ends included, ascending and apart from each other.
using CodePoints = std::vector<std::pair<char32_t, char32_t>>;
CodePoints Normalized(CodePoints ranges);
// All Unicode scalar values (no surrogates) but these. `set` is normalized.
CodePoints Complement(const CodePoints& set);
// What is in both; both are normalized.
CodePoints Intersection(const CodePoints& a, const CodePoints& b);

inline constexpr char32_t kMaxCodePoint = 0x10FFFF;
inline constexpr int kUnlimited = -1;

// Nodes refer to each other by index and may be shared; only rules may recur.
struct Grammar {
  struct Node {
    enum class Kind { kText, kClass, kSequence, kChoice, kRepeat, kRule };
    Kind kind = Kind::kText;
    std::string text = {};        // kText: these bytes; may be empty
    CodePoints set = {};          // kClass: one of these, as UTF-8; an empty set matches nothing
    std::vector<int> parts = {};  // kSequence, kChoice; kRepeat: one
    int least = 0, most = 0;      // kRepeat; kUnlimited
    int rule = -1;                // kRule
  };
  struct Rule {
    std::string name;
    int node = -1;
  };

  std::vector<Node> nodes;
  std::vector<Rule> rules;  // the first one is the whole text

  int Text(std::string_view text);
  int Class(CodePoints set);  // in any order; surrogates are left out
  int Sequence(std::vector<int> parts);
  int Choice(std::vector<int> parts);
  int Repeat(int part, int least, int most);
  int Optional(int part) { return Repeat(part, 0, 1); }
  int Call(int rule);
  int AddRule(std::string name, int node = -1);
};

}  // namespace lift
