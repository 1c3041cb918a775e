#include "server/tokenizer/added_tokens.h"

#include <utf8proc.h>

#include <algorithm>

#include "server/tokenizer/utf8.h"

namespace lift {
namespace {

// White_Space of Unicode, what \s matches in Rust's regex.
bool IsSpace(char32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

// \w of Rust's regex: alphabetic, marks, decimal digits, connector punctuation and the joiners.
bool IsWord(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      // Other_Alphabetic among the symbols (circled and squared letters), and Join_Control.
      return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
             (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189) || c == 0x200C ||
             c == 0x200D;
  }
}

// Start of the last character of text[0, end), end > 0.
size_t PreviousChar(std::string_view text, size_t end) {
  size_t at = end - 1;
  while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

bool EndsWithWord(std::string_view text) {
  return !text.empty() && IsWord(ReadUtf8(text.substr(PreviousChar(text, text.size()))).code_point);
}

bool StartsWithWord(std::string_view text) {
  return !text.empty() && IsWord(ReadUtf8(text).code_point);
}

size_t TrailingSpaceStart(std::string_view text, size_t floor) {
  size_t at = text.size();
  while (at > floor) {
    const size_t previous = PreviousChar(text, at);
    if (!IsSpace(ReadUtf8(text.substr(previous)).code_point)) break;
    at = previous;
  }
  return at;
}

size_t LeadingSpaceLength(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const Utf8Step step = ReadUtf8(text.substr(at));
    if (!IsSpace(step.code_point)) break;
    at += step.length;
  }
  return at;
}

}  // namespace

void AddedTokenMatcher::Add(std::string_view content, const AddedToken& token) {
  if (content.empty()) return;
  int32_t node = 0;
  for (const char c : content) {
    const auto [it, added] =
        nodes_[node].next.try_emplace(static_cast<uint8_t>(c), static_cast<int32_t>(nodes_.size()));
    node = it->second;
    if (added) nodes_.emplace_back();
  }
  starts_[static_cast<uint8_t>(content[0])] = true;
  if (nodes_[node].token < 0) nodes_[node].token = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(token);
}

AddedTokenMatcher::Match AddedTokenMatcher::LongestAt(std::string_view text, size_t at) const {
  Match best{at, -1};
  int32_t node = 0;
  for (size_t i = at; i < text.size(); ++i) {
    const auto it = nodes_[node].next.find(static_cast<uint8_t>(text[i]));
    if (it == nodes_[node].next.end()) break;
    node = it->second;
    if (nodes_[node].token >= 0) best = {i + 1, nodes_[node].token};
  }
  return best;
}

std::vector<AddedTokenMatcher::Segment> AddedTokenMatcher::Split(std::string_view text,
                                                                 bool parse_special) const {
  std::vector<Segment> out;
  size_t covered = 0;
  for (size_t at = 0; at < text.size();) {
    if (!starts_[static_cast<uint8_t>(text[at])]) {
      ++at;
      continue;
    }
    const Match match = LongestAt(text, at);
    if (match.token < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[match.token];
    size_t begin = at, end = match.end;
    at = match.end;  // a match that is then discarded still hides those inside it
    if (token.special && !parse_special) continue;
    if (token.single_word &&
        (EndsWithWord(text.substr(0, begin)) || StartsWithWord(text.substr(end))))
      continue;
    if (token.lstrip) begin = TrailingSpaceStart(text.substr(0, begin), std::min(covered, begin));
    if (token.rstrip) end += LeadingSpaceLength(text.substr(end));
    if (covered < begin) out.push_back({text.substr(covered, begin - covered), -1});
    out.push_back({text.substr(begin, end - begin), token.id});
    covered = end;
  }
  if (covered < text.size()) out.push_back({text.substr(covered), -1});
  return out;
}

}  // namespace lift
