// Finds added tokens ("<|im_start|>") in a text the way `tokenizers` does: leftmost-longest, then
// each token's flags.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string_view>
#include <vector>

#include "server/tokenizer/tokenizer_spec.h"

namespace lift {

// Immutable after the Add calls; thread-safe.
class AddedTokenMatcher {
 public:
  // `content` is what the text must contain (the token's content, normalized if the token asks for
  // it). Empty is ignored.
  void Add(std::string_view content, const AddedToken& token);

  struct Segment {
    std::string_view text;  // borrows from the text given
    int32_t id;             // -1: plain text
  };
  // Covers `text`. Special tokens are left in the plain text unless parse_special.
  std::vector<Segment> Split(std::string_view text, bool parse_special) const;

 private:
  struct Node {
    std::map<uint8_t, int32_t> next;
    int32_t token = -1;  // index into tokens_
  };
  struct Match {
    size_t end;
    int32_t token;  // -1: none
  };
  Match LongestAt(std::string_view text, size_t at) const;

  std::vector<Node> nodes_{1};
  std::vector<AddedToken> tokens_;
  std::array<bool, 256> starts_{};  // some token starts with this byte
};

}  // namespace lift
