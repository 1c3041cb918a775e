#include "server/constraint/nfa.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/constraint/limits.h"

namespace lift {
namespace {

using Node = Grammar::Node;
using State = Nfa::State;

constexpr size_t kMaxStates = 1 << 17;
constexpr size_t kMaxRules = 2048;
constexpr int64_t kMaxWork = 1 << 21;

// Builds backwards: every part is told the state that follows it.
class Builder {
 public:
  explicit Builder(const Grammar& grammar) : grammar_(grammar) {}

  absl::StatusOr<Nfa> Run() {
    if (grammar_.rules.size() > kMaxRules) return TooLarge("more than ", kMaxRules, " rules");
    for (const Grammar::Rule& rule : grammar_.rules) {
      const auto index = static_cast<int32_t>(nfa_.rules.size());
      const int32_t end = Add({.kind = State::Kind::kEnd, .rule = index});
      nfa_.rules.push_back({.entry = Part(rule.node, end)});
      if (full_) return TooLarge("it needs too many states");
    }
    MarkRecursive();
    LIFT_RETURN_IF_ERROR(RefuseLeftRecursion());
    return std::move(nfa_);
  }

 private:
  int32_t Add(State state) {
    nfa_.states.push_back(std::move(state));
    return static_cast<int32_t>(nfa_.states.size()) - 1;
  }
  int32_t Split(std::vector<int32_t> targets) {
    if (targets.size() == 1) return targets[0];
    return Add({.kind = State::Kind::kSplit, .split = std::move(targets)});
  }

  int32_t Part(int index, int32_t next) {
    full_ = full_ || ++work_ > kMaxWork || nfa_.states.size() > kMaxStates;
    if (full_) return next;
    const Node& node = grammar_.nodes[static_cast<size_t>(index)];
    switch (node.kind) {
      case Node::Kind::kText:
        return Text(node.text, next);
      case Node::Kind::kClass:
        return Class(node.set, next);
      case Node::Kind::kSequence:
        for (size_t i = node.parts.size(); i-- > 0;) next = Part(node.parts[i], next);
        return next;
      case Node::Kind::kChoice: {
        std::vector<int32_t> targets;
        for (const int part : node.parts) targets.push_back(Part(part, next));
        return Split(std::move(targets));
      }
      case Node::Kind::kRepeat:
        return Repeat(node, next);
      case Node::Kind::kRule:
        return Add({.kind = State::Kind::kCall, .next = next, .rule = node.rule});
    }
    return next;
  }

  int32_t Repeat(const Node& node, int32_t next) {
    const int part = node.parts[0];
    int32_t state = next;
    if (node.most == kUnlimited) {
      const int32_t loop = Add({.kind = State::Kind::kSplit});
      const int32_t body = Part(part, loop);
      nfa_.states[static_cast<size_t>(loop)].split = {body, next};
      state = loop;
    } else {
      for (int i = node.least; i < node.most && !full_; ++i) {
        state = Split({Part(part, state), next});
      }
    }
    for (int i = 0; i < node.least && !full_; ++i) state = Part(part, state);
    return state;
  }

  int32_t Text(const std::string& text, int32_t next) {
    for (size_t i = text.size(); i-- > 0;) {
      const auto byte = static_cast<uint8_t>(text[i]);
      next = Add({.kind = State::Kind::kBytes, .low = byte, .high = byte, .next = next});
    }
    work_ += static_cast<int64_t>(text.size());
    return next;
  }

  // Sequences with the same rest share its states.
  int32_t Class(const CodePoints& set, int32_t next) {
    shared_.clear();
    std::vector<int32_t> targets;
    for (const auto& [low, high] : set) Utf8(low, high, next, targets);
    std::sort(targets.begin(), targets.end());
    targets.erase(std::unique(targets.begin(), targets.end()), targets.end());
    return Split(std::move(targets));  // of nothing: a dead end
  }

  int32_t Bytes(uint8_t low, uint8_t high, int32_t next) {
    const auto [it, added] = shared_.try_emplace({low, high, next}, -1);
    if (added)
      it->second = Add({.kind = State::Kind::kBytes, .low = low, .high = high, .next = next});
    return it->second;
  }

  // Cuts the range until all of it is one sequence of byte ranges.
  void Utf8(char32_t low, char32_t high, int32_t next, std::vector<int32_t>& out) {
    ++work_;
    for (const char32_t last : {0x7Fu, 0x7FFu, 0xFFFFu}) {
      if (low <= last && high > last) {
        Utf8(low, last, next, out);
        return Utf8(last + 1, high, next, out);
      }
    }
    const int length = high <= 0x7F ? 1 : high <= 0x7FF ? 2 : high <= 0xFFFF ? 3 : 4;
    for (int i = 1; i < length; ++i) {
      const char32_t mask = (char32_t{1} << (6 * i)) - 1;
      if ((low & ~mask) == (high & ~mask)) continue;
      if ((low & mask) != 0) {
        Utf8(low, low | mask, next, out);
        return Utf8((low | mask) + 1, high, next, out);
      }
      if ((high & mask) != mask) {
        Utf8(low, (high & ~mask) - 1, next, out);
        return Utf8(high & ~mask, high, next, out);
      }
    }
    for (int i = 0; i < length; ++i) {
      next = Bytes(Byte(low, i, length), Byte(high, i, length), next);
    }
    out.push_back(next);
  }
  // The byte `from_end` places before the last.
  static uint8_t Byte(char32_t code, int from_end, int length) {
    const auto bits = static_cast<uint8_t>(code >> (6 * from_end));
    if (from_end + 1 < length) return 0x80 | (bits & 0x3F);
    static constexpr uint8_t kLead[] = {0, 0x00, 0xC0, 0xE0, 0xF0};
    return static_cast<uint8_t>(kLead[length] | (code >> (6 * from_end)));
  }

  // Rules that rule `from` calls, directly or not, through `calls`.
  static std::vector<bool> Reached(const std::vector<std::vector<int32_t>>& calls, int32_t from) {
    std::vector<bool> reached(calls.size(), false);
    std::vector<int32_t> open = calls[static_cast<size_t>(from)];
    while (!open.empty()) {
      const auto rule = static_cast<size_t>(open.back());
      open.pop_back();
      if (reached[rule]) continue;
      reached[rule] = true;
      open.insert(open.end(), calls[rule].begin(), calls[rule].end());
    }
    return reached;
  }

  std::vector<int32_t> RulesOf(int node) const {
    std::vector<int32_t> rules;
    std::vector<bool> seen(grammar_.nodes.size(), false);
    std::vector<int> open = {node};
    while (!open.empty()) {
      const int top = open.back();
      open.pop_back();
      if (seen[static_cast<size_t>(top)]) continue;
      seen[static_cast<size_t>(top)] = true;
      const Node& n = grammar_.nodes[static_cast<size_t>(top)];
      if (n.kind == Node::Kind::kRule) rules.push_back(n.rule);
      open.insert(open.end(), n.parts.begin(), n.parts.end());
    }
    return rules;
  }

  // Every cycle of calls has a rule that a depth-first search from the first rule meets while it is
  // still inside it.
  void MarkRecursive() {
    enum class Mark : uint8_t { kNew, kInside, kDone };
    std::vector<Mark> marks(nfa_.rules.size(), Mark::kNew);
    std::vector<std::pair<int32_t, std::vector<int32_t>>> path;  // a rule, calls not yet followed
    const auto enter = [&](int32_t rule) {
      marks[static_cast<size_t>(rule)] = Mark::kInside;
      path.emplace_back(rule, RulesOf(grammar_.rules[static_cast<size_t>(rule)].node));
    };
    enter(0);
    while (!path.empty()) {
      auto& [rule, calls] = path.back();
      if (calls.empty()) {
        marks[static_cast<size_t>(rule)] = Mark::kDone;
        path.pop_back();
        continue;
      }
      const int32_t called = calls.back();
      calls.pop_back();
      if (marks[static_cast<size_t>(called)] == Mark::kInside) {
        nfa_.rules[static_cast<size_t>(called)].recursive = true;
      }
      if (marks[static_cast<size_t>(called)] == Mark::kNew) enter(called);
    }
  }

  // Rules that can be passed without consuming anything.
  std::vector<bool> NullableRules() {
    std::vector<bool> nullable(nfa_.rules.size(), false);
    for (bool changed = true; changed;) {
      changed = false;
      for (size_t r = 0; r < nfa_.rules.size(); ++r) {
        if (nullable[r]) continue;
        FirstCalls(
            static_cast<int32_t>(r), nullable, [&](int32_t) {},
            [&] { nullable[r] = changed = true; });
      }
    }
    return nullable;
  }

  // What rule `r` can call before it consumes anything, and whether it can end so.
  template <class OnCall, class OnEnd>
  void FirstCalls(int32_t r, const std::vector<bool>& nullable, OnCall on_call, OnEnd on_end) {
    std::vector<int32_t> open = {nfa_.rules[static_cast<size_t>(r)].entry};
    seen_.resize(nfa_.states.size(), 0);
    ++visit_;
    while (!open.empty()) {
      const auto at = static_cast<size_t>(open.back());
      open.pop_back();
      if (std::exchange(seen_[at], visit_) == visit_) continue;
      const State& state = nfa_.states[at];
      if (state.kind == State::Kind::kEnd) on_end();
      if (state.kind == State::Kind::kSplit) {
        open.insert(open.end(), state.split.begin(), state.split.end());
      }
      if (state.kind == State::Kind::kCall) {
        on_call(state.rule);
        if (nullable[static_cast<size_t>(state.rule)]) open.push_back(state.next);
      }
    }
  }

  absl::Status RefuseLeftRecursion() {
    if (!nfa_.recursive()) return absl::OkStatus();
    const std::vector<bool> nullable = NullableRules();
    std::vector<std::vector<int32_t>> first(nfa_.rules.size());
    for (size_t r = 0; r < first.size(); ++r) {
      FirstCalls(
          static_cast<int32_t>(r), nullable, [&](int32_t rule) { first[r].push_back(rule); },
          [] {});
    }
    for (size_t r = 0; r < first.size(); ++r) {
      if (!Reached(first, static_cast<int32_t>(r))[r]) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("rule '", grammar_.rules[r].name,
                       "' refers to itself before it consumes anything (left recursion); write it "
                       "as a repetition"));
    }
    return absl::OkStatus();
  }

  const Grammar& grammar_;
  Nfa nfa_;
  std::map<std::tuple<uint8_t, uint8_t, int32_t>, int32_t> shared_;
  int64_t work_ = 0;
  bool full_ = false;
  std::vector<uint32_t> seen_;  // [states], by the number of the visit
  uint32_t visit_ = 0;
};

}  // namespace

absl::StatusOr<Nfa> BuildNfa(const Grammar& grammar) { return Builder(grammar).Run(); }

}  // namespace lift
