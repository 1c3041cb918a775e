// What an answer's text must be, and which tokens may come next.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/base/status.h"
#include "server/constraint/dfa.h"
#include "server/constraint/grammar.h"
#include "server/constraint/token_trie.h"
#include "server/tokenizer/tokenizer.h"

namespace lift {

// A constraint as its client wrote it, checked for syntax. Immutable.
class ConstraintSource {
 public:
  // INVALID_ARGUMENT with what is wrong and where, reason and field set (errors.h):
  // "constraint.regex" and so on. Cheap: bounded by the size of the text.
  using Result = absl::StatusOr<std::shared_ptr<const ConstraintSource>>;
  static Result Regex(const std::string& pattern);  // the whole text matches
  static Result JsonSchema(const std::string& schema);
  static Result JsonObject();  // any
  static Result Ebnf(const std::string& grammar);
  static Result Choices(const std::vector<std::string>& texts);

  const std::string& key() const { return key_; }      // equal keys, equal constraints
  const std::string& field() const { return field_; }  // the request's, for errors
  const Grammar& grammar() const { return grammar_; }

 private:
  static Result Make(std::string field, const std::string& text,
                     absl::StatusOr<Grammar> (*parse)(std::string_view));

  std::string key_, field_;
  Grammar grammar_;
};

// Tokens that may come next in every state an answer can be in. From each of them the vocabulary
// can complete the text: there are no dead ends. Immutable; thread-safe.
class CompiledConstraint {
 public:
  // Takes up to seconds: not for a thread somebody waits for. INVALID_ARGUMENT
  // (CONSTRAINT_TOO_LARGE, CONSTRAINT_UNSATISFIABLE) with the source's field. `trie` is of
  // `tokenizer`.
  static absl::StatusOr<std::shared_ptr<const CompiledConstraint>> Compile(
      const ConstraintSource& source, std::shared_ptr<const Tokenizer> tokenizer,
      const TokenTrie& trie);

  static constexpr int32_t kDead = Dfa::kDead;
  int32_t start() const { return dfa_.start; }
  // One bit per token of the tokenizer: it may come next.
  std::span<const uint64_t> Allowed(int32_t state) const {
    return std::span(masks_).subspan(
        static_cast<size_t>(mask_of_[static_cast<size_t>(state)]) * words_, words_);
  }
  // The text may end here; it must if it is complete: nothing can follow.
  bool Accepts(int32_t state) const { return dfa_.accepting[static_cast<size_t>(state)]; }
  bool Complete(int32_t state) const { return mask_of_[static_cast<size_t>(state)] == 0; }
  // kDead if the token may not come next.
  int32_t Advance(int32_t state, int32_t token) const;

  size_t bytes() const;  // of memory
  size_t states() const { return static_cast<size_t>(dfa_.states()); }
  size_t masks() const { return masks_.size() / words_; }
  // How often a rule may be inside itself; 0 where none recurs.
  int depth() const { return dfa_.depth; }

 private:
  friend class MaskBuilder;
  std::shared_ptr<const Tokenizer> tokenizer_;
  Dfa dfa_;
  size_t words_ = 0;              // of one mask
  std::vector<int32_t> mask_of_;  // [states]; the first mask is empty
  std::vector<uint64_t> masks_;   // [masks][words_], each different
};

}  // namespace lift
