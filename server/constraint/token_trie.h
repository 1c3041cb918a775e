// The vocabulary as a trie of bytes, in the order of a depth-first walk.
#pragma once

#include <cstdint>
#include <vector>

#include "server/tokenizer/tokenizer.h"

namespace lift {

// Tokens that stand for text: special ones, end tokens and empty ones are not in it. Immutable.
class TokenTrie {
 public:
  explicit TokenTrie(const Tokenizer& tokenizer);

  // Calls on_token(token, state after it) for every token whose bytes step(state, byte) accepts
  // (>= 0) one after the other, from `start`. Returns how many bytes were tried.
  template <class Step, class OnToken>
  int64_t Walk(int32_t start, std::vector<int32_t>& states, Step step, OnToken on_token) const {
    states.resize(static_cast<size_t>(depth_) + 1);
    states[0] = start;
    int64_t tried = 0;
    for (size_t i = 0; i < nodes_.size();) {
      const Node& node = nodes_[i];
      ++tried;
      const int32_t state = step(states[node.depth - size_t{1}], node.byte);
      if (state < 0) {
        i = static_cast<size_t>(node.end);
        continue;
      }
      states[node.depth] = state;
      for (int32_t t = node.first_token; t < nodes_[i].last_token; ++t) {
        on_token(tokens_[static_cast<size_t>(t)], state);
      }
      ++i;
    }
    return tried;
  }

 private:
  struct Node {
    int32_t end;  // the first node that is not below this one
    int32_t first_token, last_token;
    uint16_t depth;  // from 1
    uint8_t byte;
  };
  std::vector<Node> nodes_;
  std::vector<int32_t> tokens_;
  int depth_ = 0;
};

// Not text: neither allowed by a constraint nor part of what it checks.
bool IsTextToken(const Tokenizer& tokenizer, int32_t id);

}  // namespace lift
