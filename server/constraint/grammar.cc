#include "server/constraint/grammar.h"

#include <algorithm>

namespace lift {
namespace {

// All but the surrogates, which have no UTF-8.
const CodePoints& Scalars() {
  static const CodePoints scalars = {{0, 0xD7FF}, {0xE000, kMaxCodePoint}};
  return scalars;
}

}  // namespace

CodePoints Normalized(CodePoints ranges) {
  std::sort(ranges.begin(), ranges.end());
  CodePoints out;
  for (const auto& [low, high] : ranges) {
    if (low > high) continue;
    if (!out.empty() && low <= out.back().second + 1) {
      out.back().second = std::max(out.back().second, high);
    } else {
      out.emplace_back(low, high);
    }
  }
  return out;
}

CodePoints Complement(const CodePoints& set) {
  CodePoints out;
  char32_t next = 0;
  for (const auto& [low, high] : set) {
    if (low > next) out.emplace_back(next, low - 1);
    next = high + 1;
  }
  if (next <= kMaxCodePoint) out.emplace_back(next, kMaxCodePoint);
  return Intersection(out, Scalars());
}

CodePoints Intersection(const CodePoints& a, const CodePoints& b) {
  CodePoints out;
  for (size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    const char32_t low = std::max(a[i].first, b[j].first);
    const char32_t high = std::min(a[i].second, b[j].second);
    if (low <= high) out.emplace_back(low, high);
    a[i].second < b[j].second ? ++i : ++j;
  }
  return out;
}

int Grammar::Text(std::string_view text) {
  nodes.push_back({.kind = Node::Kind::kText, .text = std::string(text)});
  return static_cast<int>(nodes.size()) - 1;
}

int Grammar::Class(CodePoints set) {
  nodes.push_back(
      {.kind = Node::Kind::kClass, .set = Intersection(Normalized(std::move(set)), Scalars())});
  return static_cast<int>(nodes.size()) - 1;
}

int Grammar::Sequence(std::vector<int> parts) {
  if (parts.size() == 1) return parts[0];
  nodes.push_back({.kind = Node::Kind::kSequence, .parts = std::move(parts)});
  return static_cast<int>(nodes.size()) - 1;
}

int Grammar::Choice(std::vector<int> parts) {
  if (parts.size() == 1) return parts[0];
  nodes.push_back({.kind = Node::Kind::kChoice, .parts = std::move(parts)});
  return static_cast<int>(nodes.size()) - 1;
}

int Grammar::Repeat(int part, int least, int most) {
  nodes.push_back({.kind = Node::Kind::kRepeat, .parts = {part}, .least = least, .most = most});
  return static_cast<int>(nodes.size()) - 1;
}

int Grammar::Call(int rule) {
  nodes.push_back({.kind = Node::Kind::kRule, .rule = rule});
  return static_cast<int>(nodes.size()) - 1;
}

int Grammar::AddRule(std::string name, int node) {
  rules.push_back({std::move(name), node});
  return static_cast<int>(rules.size()) - 1;
}

}  // namespace lift
