#include "server/constraint/token_trie.h"

#include <algorithm>
#include <string_view>
#include <utility>

namespace lift {
namespace {

constexpr size_t kLongestToken = 1024;  // bytes; longer ones are never chosen

}  // namespace

bool IsTextToken(const Tokenizer& tokenizer, int32_t id) {
  const std::string_view bytes = tokenizer.TokenBytes(id);
  const TokenizerSpec& spec = tokenizer.spec();
  return !bytes.empty() && bytes.size() <= kLongestToken && !tokenizer.IsSpecial(id) &&
         id != spec.eos_id &&
         std::find(spec.eos_ids.begin(), spec.eos_ids.end(), id) == spec.eos_ids.end();
}

TokenTrie::TokenTrie(const Tokenizer& tokenizer) {
  std::vector<std::pair<std::string_view, int32_t>> sorted;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (IsTextToken(tokenizer, id)) sorted.emplace_back(tokenizer.TokenBytes(id), id);
  }
  std::sort(sorted.begin(), sorted.end());
  std::vector<size_t> path;  // nodes of the current token's bytes
  for (const auto& [bytes, id] : sorted) {
    // Shares with the path what it has in common with it.
    size_t common = 0;
    while (common < path.size() && common < bytes.size() &&
           nodes_[path[common]].byte == static_cast<uint8_t>(bytes[common])) {
      ++common;
    }
    for (size_t i = common; i < path.size(); ++i) {
      nodes_[path[i]].end = static_cast<int32_t>(nodes_.size());
    }
    path.resize(common);
    for (size_t i = common; i < bytes.size(); ++i) {
      path.push_back(nodes_.size());
      nodes_.push_back({.end = 0,
                        .first_token = static_cast<int32_t>(tokens_.size()),
                        .last_token = static_cast<int32_t>(tokens_.size()),
                        .depth = static_cast<uint16_t>(i + 1),
                        .byte = static_cast<uint8_t>(bytes[i])});
    }
    tokens_.push_back(id);
    nodes_[path.back()].last_token = static_cast<int32_t>(tokens_.size());
    depth_ = std::max(depth_, static_cast<int>(bytes.size()));
  }
  for (const size_t node : path) nodes_[node].end = static_cast<int32_t>(nodes_.size());
}

}  // namespace lift
