// One pre-tokenizer split: a regular expression written for Oniguruma (what Hugging Face
// `tokenizers` uses), run by PCRE2.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "server/tokenizer/tokenizer_spec.h"

namespace lift {

// Per-thread working memory of matching; create one per Encode call and share it between patterns.
class MatchScratch {
 public:
  MatchScratch();
  ~MatchScratch();
  MatchScratch(const MatchScratch&) = delete;
  MatchScratch& operator=(const MatchScratch&) = delete;

 private:
  friend class SplitPattern;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Immutable; thread-safe.
class SplitPattern {
 public:
  // INVALID_ARGUMENT if the pattern does not compile, UNIMPLEMENTED if it uses what the two engines
  // read differently.
  static absl::StatusOr<SplitPattern> Create(const TokenizerSpec::Split& split);
  SplitPattern(SplitPattern&&) noexcept;
  SplitPattern& operator=(SplitPattern&&) noexcept;
  ~SplitPattern();

  // Appends the non-empty pieces of `text` (valid UTF-8), which borrow from it. RESOURCE_EXHAUSTED
  // when the text drives the pattern over its match limits.
  absl::Status Apply(std::string_view text, MatchScratch& scratch,
                     std::vector<std::string_view>& pieces) const;

 private:
  struct Impl;
  explicit SplitPattern(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// True for the behaviors of TokenizerSpec::Split.
bool IsSplitBehavior(std::string_view name);

}  // namespace lift
