// The deterministic byte automaton of a grammar.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "server/constraint/nfa.h"

namespace lift {

// From every state an accepting one can be reached, by bytes.
struct Dfa {
  static constexpr int32_t kDead = -1;
  std::array<uint8_t, 256> class_of{};  // bytes that no state tells apart share a class
  int32_t classes = 0;
  std::vector<int32_t> next;    // [states][classes]; kDead
  std::vector<bool> accepting;  // [states]
  int32_t start = kDead;        // kDead: nothing matches
  int depth = 0;                // how often a rule may be inside itself; 0: none is recursive

  int32_t Step(int32_t state, uint8_t byte) const {
    return next[static_cast<size_t>(state) * static_cast<size_t>(classes) + class_of[byte]];
  }
  int32_t states() const { return static_cast<int32_t>(accepting.size()); }
};

// Recursion is bounded: a rule is inside itself at most as often as the caps leave room for, from
// 32 times down to once. INVALID_ARGUMENT (CONSTRAINT_TOO_LARGE) if even that does not fit.
absl::StatusOr<Dfa> BuildDfa(const Nfa& nfa);

}  // namespace lift
