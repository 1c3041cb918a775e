#include "server/tokenizer/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "server/tokenizer/utf8.h"

namespace lift {
namespace {

// Generous for any real pattern on a long prompt, small enough to end a hostile one within about a
// second.
constexpr uint32_t kMatchLimit = 20'000'000, kDepthLimit = 100'000, kHeapLimitKib = 64 * 1024;
constexpr size_t kJitStackStart = 64 * 1024, kJitStackMax = 16 * 1024 * 1024;

struct CodeFree {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};

struct Piece {
  size_t begin, end;
  bool match;
};

// Rewrites what Oniguruma and PCRE2 read differently: \s means exactly White_Space (PCRE2 adds
// U+180E). What cannot be rewritten (class intersections, nested classes, \h) is refused.
absl::StatusOr<std::string> ToPcre(const std::string& pattern) {
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char next = pattern[++i];
      if (next == 'h' || next == 'H' || next == 'K' || next == 'Q' || next == 'C') {
        return absl::UnimplementedError(absl::StrCat("Pre-tokenizer pattern uses \\",
                                                     std::string(1, next),
                                                     ", which is not supported: ", pattern));
      }
      if (next == 's') {
        out += "\\p{White_Space}";
      } else if (next == 'S') {
        out += "\\P{White_Space}";
      } else {
        out += c;
        out += next;
      }
      continue;
    }
    if (in_class && (c == '[' || pattern.compare(i, 2, "&&") == 0) &&
        pattern.compare(i, 2, "[:") != 0) {
      return absl::UnimplementedError(absl::StrCat(
          "Pre-tokenizer pattern nests or intersects character classes, which is not supported: ",
          pattern));
    }
    if (in_class && pattern.compare(i, 2, "[:") == 0) {
      const size_t close = pattern.find(":]", i + 2);
      if (close == std::string::npos)
        return absl::InvalidArgumentError(absl::StrCat("Unclosed [: in ", pattern));
      out.append(pattern, i, close + 2 - i);
      i = close + 1;
      continue;
    }
    if (!in_class && c == '[') {
      in_class = true;
      out += c;
      if (i + 1 < pattern.size() && pattern[i + 1] == '^') out += pattern[++i];
      if (i + 1 < pattern.size() && pattern[i + 1] == ']') {
        out += "\\]";
        ++i;
      }
      continue;
    }
    if (in_class && c == ']') in_class = false;
    out += c;
  }
  return out;
}

}  // namespace

struct MatchScratch::Impl {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = nullptr;

  Impl() {
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_set_depth_limit(context, kDepthLimit);
    pcre2_set_heap_limit(context, kHeapLimitKib);
    stack = pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr);
    if (stack != nullptr) pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~Impl() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    if (stack != nullptr) pcre2_jit_stack_free(stack);
  }
};

MatchScratch::MatchScratch() : impl_(std::make_unique<Impl>()) {}
MatchScratch::~MatchScratch() = default;

struct SplitPattern::Impl {
  std::unique_ptr<pcre2_code, CodeFree> code;
  std::string behavior;
  bool invert;

  absl::Status FindPieces(std::string_view text, MatchScratch::Impl& scratch,
                          std::vector<Piece>& out) const;
};

SplitPattern::SplitPattern(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SplitPattern::SplitPattern(SplitPattern&&) noexcept = default;
SplitPattern& SplitPattern::operator=(SplitPattern&&) noexcept = default;
SplitPattern::~SplitPattern() = default;

bool IsSplitBehavior(std::string_view name) {
  return name == "isolated" || name == "removed" || name == "merged_with_previous" ||
         name == "merged_with_next" || name == "contiguous";
}

absl::StatusOr<SplitPattern> SplitPattern::Create(const TokenizerSpec::Split& split) {
  if (!IsSplitBehavior(split.behavior)) {
    return absl::InvalidArgumentError(
        absl::StrCat("Unknown split behavior \"", split.behavior, "\""));
  }
  LIFT_ASSIGN_OR_RETURN(const std::string pattern, ToPcre(split.pattern));
  int error = 0;
  PCRE2_SIZE offset = 0;
  // MULTILINE because ^ and $ match at every line in Oniguruma's Ruby syntax.
  const uint32_t flags = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
  auto impl = std::make_unique<Impl>();
  impl->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                 flags, &error, &offset, nullptr));
  if (impl->code == nullptr) {
    PCRE2_UCHAR message[256];
    pcre2_get_error_message(error, message, sizeof(message));
    return absl::InvalidArgumentError(absl::StrCat("Pre-tokenizer pattern does not compile (",
                                                   reinterpret_cast<const char*>(message),
                                                   "): ", split.pattern));
  }
  // Without JIT support on this machine the interpreter runs the same pattern under the same
  // limits.
  pcre2_jit_compile(impl->code.get(), PCRE2_JIT_COMPLETE);
  impl->behavior = split.behavior;
  impl->invert = split.invert;
  return SplitPattern(std::move(impl));
}

// Covers `text` with matches and the gaps between them, in order.
absl::Status SplitPattern::Impl::FindPieces(std::string_view text, MatchScratch::Impl& scratch,
                                            std::vector<Piece>& out) const {
  size_t covered = 0, from = 0;
  while (from <= text.size()) {
    const int rc = pcre2_match(code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                               from, PCRE2_NO_UTF_CHECK, scratch.data, scratch.context);
    if (rc == PCRE2_ERROR_NOMATCH) break;
    if (rc < 0) {
      return absl::ResourceExhaustedError(
          "The text drives the model's pre-tokenizer pattern over its match limits; split the text "
          "into shorter parts");
    }
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(scratch.data);
    const size_t begin = span[0], end = span[1];
    if (end <= begin) {  // an empty match splits nothing off; go on one character later
      if (begin > covered) out.push_back({covered, begin, false});
      covered = std::max(covered, begin);
      if (begin >= text.size()) break;
      from = begin + ReadUtf8(text.substr(begin)).length;
      continue;
    }
    if (begin > covered) out.push_back({covered, begin, false});
    out.push_back({begin, end, true});
    covered = from = end;
  }
  if (covered < text.size()) out.push_back({covered, text.size(), false});
  return absl::OkStatus();
}

absl::Status SplitPattern::Apply(std::string_view text, MatchScratch& scratch,
                                 std::vector<std::string_view>& pieces) const {
  std::vector<Piece> found;
  LIFT_RETURN_IF_ERROR(impl_->FindPieces(text, *scratch.impl_, found));
  const std::string& behavior = impl_->behavior;
  for (Piece& piece : found) piece.match ^= impl_->invert;
  size_t kept = 0;  // found[0, kept) are the pieces so far
  for (size_t i = 0; i < found.size(); ++i) {
    const Piece piece = found[i];
    const bool first = i == 0;
    if (behavior == "removed" && piece.match) continue;
    const bool join =
        !first && ((behavior == "contiguous" && found[kept - 1].match == piece.match) ||
                   (behavior == "merged_with_previous" && piece.match && !found[kept - 1].match) ||
                   (behavior == "merged_with_next" && found[kept - 1].match && !piece.match));
    if (join) {
      found[kept - 1].end = piece.end;
      // A joined piece cannot take another one, except within a contiguous run.
      if (behavior == "merged_with_previous") found[kept - 1].match = true;
      if (behavior == "merged_with_next") found[kept - 1].match = false;
    } else {
      found[kept++] = piece;
    }
  }
  for (size_t i = 0; i < kept; ++i)
    pieces.push_back(text.substr(found[i].begin, found[i].end - found[i].begin));
  return absl::OkStatus();
}

}  // namespace lift
