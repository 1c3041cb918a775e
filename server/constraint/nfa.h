// A grammar as byte automata, one for each rule, that call each other.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/base/status.h"
#include "server/constraint/grammar.h"

namespace lift {

struct Nfa {
  struct State {
    enum class Kind : uint8_t { kBytes, kSplit, kCall, kEnd };
    Kind kind = Kind::kEnd;
    uint8_t low = 0, high = 0;        // kBytes: one byte of these, then `next`
    int32_t next = -1;                // kBytes; kCall: after the called rule
    int32_t rule = -1;                // kCall: which; kEnd: whose
    std::vector<int32_t> split = {};  // kSplit: any of these, for nothing
  };
  struct Rule {
    int32_t entry = -1;
    bool recursive =
        false;  // can contain itself; at least one rule of every cycle of calls says so
  };
  std::vector<State> states;
  std::vector<Rule> rules;

  bool recursive() const {
    for (const Rule& rule : rules) {
      if (rule.recursive) return true;
    }
    return false;
  }
};

// INVALID_ARGUMENT (CONSTRAINT_TOO_LARGE; a rule that begins with itself, by name). Every rule of
// the grammar has its node.
absl::StatusOr<Nfa> BuildNfa(const Grammar& grammar);

}  // namespace lift
