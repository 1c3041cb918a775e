#include "server/tokenizer/sentencepiece.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "server/tokenizer/utf8.h"

namespace lift {
namespace {

using Kind = SentencePieceSpec::Kind;

constexpr char kReplacement[] = "\xEF\xBF\xBD";

size_t CharLength(std::string_view text) {
  return text.empty() ? 0 : std::min(ReadUtf8(text).length, text.size());
}

uint32_t ReadU32(std::string_view bytes) {
  uint32_t value = 0;
  for (size_t i = 4; i-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

absl::string_view Key(std::string_view text) { return {text.data(), text.size()}; }

// A unit of Darts: the label of the edge into it, whether a value hangs there, where its children
// lie.
uint32_t Label(uint32_t unit) { return unit & ((1u << 31) | 0xFF); }
bool HasLeaf(uint32_t unit) { return (unit >> 8 & 1) != 0; }
uint32_t Offset(uint32_t unit) { return (unit >> 10) << ((unit & (1u << 9)) >> 6); }
uint32_t Value(uint32_t unit) { return unit & ((1u << 31) - 1); }

}  // namespace

int BytePieceValue(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return -1;
  int value = 0;
  for (const char c : piece.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

absl::StatusOr<CharsMap> CharsMap::Parse(std::string_view bytes) {
  CharsMap map;
  if (bytes.empty()) return map;
  const auto damaged = [] {
    return absl::InvalidArgumentError("Tokenizer: its precompiled_charsmap is damaged");
  };
  if (bytes.size() < 4) return damaged();
  const uint32_t trie = ReadU32(bytes);
  bytes.remove_prefix(4);
  if (trie > bytes.size() || trie == 0 || trie % 4 != 0) return damaged();
  for (size_t i = 0; i < trie; i += 4) map.units_.push_back(ReadU32(bytes.substr(i)));
  map.replacements_ = std::string(bytes.substr(trie));
  return map;
}

std::pair<size_t, std::string_view> CharsMap::Match(std::string_view text) const {
  std::pair<size_t, std::string_view> best = {0, {}};
  if (units_.empty()) return best;
  size_t node = Offset(units_[0]);
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<uint8_t>(text[i]);
    node ^= byte;
    if (node >= units_.size() || Label(units_[node]) != byte) break;
    const uint32_t unit = units_[node];
    node ^= Offset(unit);
    if (!HasLeaf(unit) || node >= units_.size()) continue;
    const size_t at = Value(units_[node]);
    if (at >= replacements_.size()) continue;
    const size_t end = std::min(replacements_.find('\0', at), replacements_.size());
    best = {i + 1, std::string_view(replacements_).substr(at, end - at)};
  }
  return best;
}

absl::StatusOr<SentencePieceModel> SentencePieceModel::Create(const TokenizerSpec& spec) {
  SentencePieceModel model;
  model.spec_ = spec.sentencepiece;
  model.unigram_ = spec.type == "sentencepiece_unigram";
  model.unk_id_ = spec.unk_id;
  LIFT_ASSIGN_OR_RETURN(model.chars_, CharsMap::Parse(spec.sentencepiece.charsmap));
  if (model.spec_.byte_fallback) model.byte_ids_.assign(256, -1);
  float least = std::numeric_limits<float>::max(), greatest = std::numeric_limits<float>::lowest();
  for (size_t i = 0; i < spec.sentencepiece.kinds.size(); ++i) {
    const Kind kind = spec.sentencepiece.kinds[i];
    const std::string& piece = spec.tokens[i];
    const auto id = static_cast<int32_t>(i);
    if (piece.empty()) continue;
    const bool mergeable =
        kind == Kind::kNormal || kind == Kind::kUserDefined || kind == Kind::kUnused;
    (mergeable ? model.pieces_ : model.reserved_).try_emplace(piece, id);
    if (kind == Kind::kNormal) {
      least = std::min(least, spec.sentencepiece.scores[i]);
      greatest = std::max(greatest, spec.sentencepiece.scores[i]);
    }
    if (kind == Kind::kUserDefined) model.user_lengths_.push_back(piece.size());
    if (const int byte = BytePieceValue(piece);
        kind == Kind::kByte && byte >= 0 && model.spec_.byte_fallback)
      model.byte_ids_[static_cast<size_t>(byte)] = id;
  }
  if (std::find(model.byte_ids_.begin(), model.byte_ids_.end(), -1) != model.byte_ids_.end()) {
    return absl::InvalidArgumentError(
        "Tokenizer: byte_fallback is set but a byte has no piece; the tokenizer is damaged");
  }
  std::sort(model.user_lengths_.rbegin(), model.user_lengths_.rend());
  model.user_lengths_.erase(std::unique(model.user_lengths_.begin(), model.user_lengths_.end()),
                            model.user_lengths_.end());
  model.least_score_ = least, model.greatest_score_ = greatest;
  if (!model.unigram_) return model;
  model.node_ids_.push_back(-1);
  for (const auto& [piece, id] : model.pieces_) {
    int32_t node = 0;
    for (const char c : piece) {
      const uint64_t key = static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(c);
      const auto [it, added] =
          model.edges_.try_emplace(key, static_cast<int32_t>(model.node_ids_.size()));
      if (added) model.node_ids_.push_back(-1);
      node = it->second;
    }
    model.node_ids_[static_cast<size_t>(node)] = id;
  }
  return model;
}

size_t SentencePieceModel::MatchUserDefined(std::string_view text) const {
  for (const size_t length : user_lengths_) {
    if (length > text.size()) continue;
    const auto it = pieces_.find(Key(text.substr(0, length)));
    if (it != pieces_.end() && spec_.kinds[static_cast<size_t>(it->second)] == Kind::kUserDefined)
      return length;
  }
  return 0;
}

std::pair<size_t, std::string_view> SentencePieceModel::NormalizePrefix(
    std::string_view text) const {
  if (const size_t user = MatchUserDefined(text); user > 0) return {user, text.substr(0, user)};
  if (const auto rule = chars_.Match(text); rule.first > 0) return rule;
  const Utf8Step step = ReadUtf8(text);
  if (step.kind != Utf8Step::kValid) return {1, kReplacement};
  return {step.length, text.substr(0, step.length)};
}

std::string SentencePieceModel::Normalize(std::string_view text) const {
  std::string out;
  const std::string_view space = spec_.escape_whitespaces ? kSentencePieceSpace : " ";
  while (spec_.remove_extra_whitespaces && !text.empty()) {
    const auto [used, result] = NormalizePrefix(text);
    if (result != " ") break;
    text.remove_prefix(used);
  }
  if (text.empty()) return out;
  if (spec_.add_dummy_prefix) out += space;
  bool after_space = spec_.remove_extra_whitespaces;
  while (!text.empty()) {
    auto [used, result] = NormalizePrefix(text);
    while (after_space && result.starts_with(' ')) result.remove_prefix(1);
    if (!result.empty()) {
      for (const char c : result) c == ' ' ? out += space : out += c;
      after_space = result.ends_with(' ');
    }
    text.remove_prefix(used);
    if (!spec_.remove_extra_whitespaces) after_space = false;
  }
  while (spec_.remove_extra_whitespaces && out.ends_with(space))
    out.resize(out.size() - space.size());
  return out;
}

void SentencePieceModel::Encode(std::string_view text, std::vector<int32_t>& ids) const {
  const std::string normalized = Normalize(text);
  if (normalized.empty()) return;
  unigram_ ? EncodeUnigram(normalized, ids) : EncodeBpe(normalized, ids);
}

int32_t SentencePieceModel::FindPiece(std::string_view piece) const {
  const auto it = pieces_.find(Key(piece));
  return it == pieces_.end() ? -1 : it->second;
}

// An unknown piece becomes its bytes, or one unknown token a run.
void SentencePieceModel::Emit(std::string_view piece, int32_t id, bool& after_unknown,
                              std::vector<int32_t>& ids) const {
  const bool unknown = id < 0 || id == unk_id_;
  if (unknown && !byte_ids_.empty()) {
    for (const char c : piece) ids.push_back(byte_ids_[static_cast<uint8_t>(c)]);
  } else if (!unknown) {
    ids.push_back(id);
  } else if (!after_unknown && unk_id_ >= 0) {
    ids.push_back(unk_id_);
  }
  after_unknown = unknown;
}

// --- BPE: the pair with the best score is merged first, the leftmost of equals ---

struct SentencePieceModel::Symbol {
  int32_t previous = -1, next = -1;
  size_t begin = 0, size = 0;  // size 0: merged away
  bool frozen = false;         // user-defined
};

namespace {

struct Pair {
  float score = 0;
  int32_t left = 0, right = 0;
  size_t size = 0;  // of both, to notice stale ones
  bool operator<(const Pair& other) const {
    return score != other.score ? score < other.score : left > other.left;
  }
};

}  // namespace

void SentencePieceModel::EncodeBpe(std::string_view text, std::vector<int32_t>& ids) const {
  std::vector<Symbol> symbols;
  for (size_t at = 0; at < text.size();) {
    const size_t user = MatchUserDefined(text.substr(at));
    const size_t size = user > 0 ? user : CharLength(text.substr(at));
    const auto index = static_cast<int32_t>(symbols.size());
    symbols.push_back({index - 1, index + 1, at, size, user > 0});
    at += size;
  }
  symbols.back().next = -1;

  std::vector<Pair> heap;
  // How unused pieces came about, by (begin, size): the size of the left part.
  absl::flat_hash_map<std::pair<size_t, size_t>, size_t> parts;
  const auto offer = [&](int32_t left, int32_t right) {
    if (left < 0 || right < 0) return;
    const Symbol &a = symbols[static_cast<size_t>(left)], &b = symbols[static_cast<size_t>(right)];
    if (a.frozen || b.frozen) return;
    const size_t size = a.size + b.size;
    const int32_t id = FindPiece(text.substr(a.begin, size));
    if (id < 0) return;
    heap.push_back({spec_.scores[static_cast<size_t>(id)], left, right, size});
    std::push_heap(heap.begin(), heap.end());
    if (spec_.kinds[static_cast<size_t>(id)] == Kind::kUnused) parts[{a.begin, size}] = a.size;
  };
  for (size_t i = 1; i < symbols.size(); ++i)
    offer(static_cast<int32_t>(i) - 1, static_cast<int32_t>(i));
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Pair pair = heap.back();
    heap.pop_back();
    Symbol &left = symbols[static_cast<size_t>(pair.left)],
           &right = symbols[static_cast<size_t>(pair.right)];
    if (left.size == 0 || right.size == 0 || left.size + right.size != pair.size) continue;
    left.size = pair.size;
    left.next = right.next;
    if (right.next >= 0) symbols[static_cast<size_t>(right.next)].previous = pair.left;
    right.size = 0;
    offer(left.previous, pair.left);
    offer(pair.left, left.next);
  }

  bool after_unknown = false;
  std::vector<std::pair<size_t, size_t>> pending;  // begin, size; the next one last
  for (int32_t i = 0; i >= 0; i = symbols[static_cast<size_t>(i)].next) {
    const Symbol& symbol = symbols[static_cast<size_t>(i)];
    pending.assign(1, {symbol.begin, symbol.size});
    while (!pending.empty()) {
      const auto [begin, size] = pending.back();
      pending.pop_back();
      const std::string_view piece = text.substr(begin, size);
      const auto reserved = reserved_.find(Key(piece));
      const int32_t id = reserved != reserved_.end() ? reserved->second : FindPiece(piece);
      const auto cut = parts.find({begin, size});
      if (id >= 0 && spec_.kinds[static_cast<size_t>(id)] == Kind::kUnused && cut != parts.end()) {
        pending.push_back({begin + cut->second, size - cut->second});
        pending.push_back({begin, cut->second});
      } else {
        Emit(piece, id, after_unknown, ids);
      }
    }
  }
}

// --- unigram: the segmentation of the greatest total score ---

void SentencePieceModel::EncodeUnigram(std::string_view text, std::vector<int32_t>& ids) const {
  constexpr float kUnknownPenalty = 10.0f;
  struct Best {
    int32_t id = -1;
    float score = 0;
    int64_t start = -1;
  };
  const float unknown_score = least_score_ - kUnknownPenalty;
  std::vector<Best> best(text.size() + 1);  // of what ends before each byte
  // All in single precision, as the original: ties depend on it.
  const auto offer = [&](size_t start, size_t end, float score, int32_t id) {
    const float total = score + best[start].score;
    Best& to = best[end];
    if (to.start < 0 || total > to.score) to = {id, total, static_cast<int64_t>(start)};
  };
  for (size_t start = 0; start < text.size();) {
    const size_t length = CharLength(text.substr(start));
    bool single = false;
    int32_t node = 0;
    for (size_t end = start; end < text.size();) {
      const auto edge =
          edges_.find(static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(text[end]));
      if (edge == edges_.end()) break;
      node = edge->second;
      ++end;
      const int32_t id = node_ids_[static_cast<size_t>(node)];
      if (id < 0 || spec_.kinds[static_cast<size_t>(id)] == Kind::kUnused) continue;
      const bool user = spec_.kinds[static_cast<size_t>(id)] == Kind::kUserDefined;
      const float score =
          user ? static_cast<float>(static_cast<float>(end - start) * greatest_score_ - 0.1)
               : spec_.scores[static_cast<size_t>(id)];
      offer(start, end, score, id);
      single = single || end - start == length;
    }
    if (!single) offer(start, start + length, unknown_score, unk_id_);
    start += length;
  }
  std::vector<std::pair<size_t, size_t>> pieces;  // begin, end; from the last
  for (size_t end = text.size(); end > 0; end = pieces.back().first)
    pieces.push_back({static_cast<size_t>(best[end].start), end});
  bool after_unknown = false;
  for (auto it = pieces.rbegin(); it != pieces.rend(); ++it)
    Emit(text.substr(it->first, it->second - it->first), best[it->second].id, after_unknown, ids);
}

}  // namespace lift
