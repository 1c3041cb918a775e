#include "server/tokenizer/bpe.h"

#include <algorithm>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "server/tokenizer/utf8.h"

namespace lift {
namespace {

// std heap order: the merge of lowest rank on top, the leftmost first among equals.
bool Later(const BpeModel::Scratch::Merge& a, const BpeModel::Scratch::Merge& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
}

}  // namespace

absl::StatusOr<BpeModel> BpeModel::Create(const TokenizerSpec& spec) {
  BpeModel model;
  absl::flat_hash_map<std::string_view, int32_t> ids;
  ids.reserve(spec.tokens.size());
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    if (!spec.tokens[i].empty()) ids.try_emplace(spec.tokens[i], static_cast<int32_t>(i));
  }
  const auto find = [&](std::string_view token) {
    const auto it = ids.find(token);
    return it == ids.end() ? -1 : it->second;
  };
  for (int b = 0; b < 256; ++b)
    model.byte_id_[b] = find(ToByteAlphabet(std::string(1, static_cast<char>(b))));
  model.merges_.reserve(spec.merges.size());
  for (size_t rank = 0; rank < spec.merges.size(); ++rank) {
    const auto& [a, b] = spec.merges[rank];
    const int32_t left = find(a), right = find(b), merged = find(a + b);
    if (left < 0 || right < 0 || merged < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("Tokenizer merge ", rank,
                       " uses a token that is not in the vocabulary; the tokenizer is damaged"));
    }
    model.merges_.insert_or_assign(Key(left, right), Target{static_cast<int32_t>(rank), merged});
  }
  if (spec.ignore_merges) {
    // Plain text must never become a special id by being spelled out, hence these are left out.
    absl::flat_hash_set<int32_t> special;
    for (const AddedToken& token : spec.added_tokens) {
      if (token.special) special.insert(token.id);
    }
    for (const auto& [token, id] : ids) {
      std::string bytes = FromByteAlphabet(token);
      if (!special.contains(id) && ToByteAlphabet(bytes) == token)
        model.whole_.try_emplace(std::move(bytes), id);
    }
  }
  model.unk_id_ = spec.unk_id;
  model.fuse_unk_ = spec.fuse_unk;
  return model;
}

// A byte the vocabulary lacks becomes the unknown token, or nothing if there is none (as
// `tokenizers` does).
void BpeModel::LoadSymbols(std::string_view piece, Scratch& scratch) const {
  auto& symbols = scratch.symbols;
  symbols.clear();
  bool after_unknown = false;
  for (const char c : piece) {
    int32_t id = byte_id_[static_cast<uint8_t>(c)];
    const bool unknown = id < 0;
    if (unknown) {
      if (unk_id_ < 0 || (fuse_unk_ && after_unknown)) continue;
      id = unk_id_;
    }
    after_unknown = unknown;
    const int32_t at = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, at - 1, at + 1});
  }
  if (!symbols.empty()) symbols.back().next = -1;
}

void BpeModel::Queue(Scratch& scratch, int32_t position) const {
  const auto& left = scratch.symbols[position];
  if (left.next < 0) return;
  const auto it = merges_.find(Key(left.id, scratch.symbols[left.next].id));
  if (it == merges_.end()) return;
  scratch.heap.push_back(
      {it->second.rank, position, left.id, scratch.symbols[left.next].id, it->second.merged});
  std::push_heap(scratch.heap.begin(), scratch.heap.end(), Later);
}

void BpeModel::Encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const {
  if (!whole_.empty()) {
    if (const auto it = whole_.find(absl::string_view(piece.data(), piece.size()));
        it != whole_.end()) {
      ids.push_back(it->second);
      return;
    }
  }
  LoadSymbols(piece, scratch);
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  heap.clear();
  for (size_t i = 0; i + 1 < symbols.size(); ++i) Queue(scratch, static_cast<int32_t>(i));
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), Later);
    const Scratch::Merge merge = heap.back();
    heap.pop_back();
    auto& left = symbols[merge.position];
    if (left.id != merge.left || left.next < 0 || symbols[left.next].id != merge.right) continue;
    auto& right = symbols[left.next];
    left.id = merge.merged;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbols[left.next].previous = merge.position;
    if (left.previous >= 0) Queue(scratch, left.previous);
    Queue(scratch, merge.position);
  }
  for (const auto& symbol : symbols) {
    if (symbol.id >= 0) ids.push_back(symbol.id);
  }
}

}  // namespace lift
