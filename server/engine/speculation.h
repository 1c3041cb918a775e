// Guessing tokens ahead: where guesses come from and whether they pay. Guesses are verified by the
// model at the request's own precision, so they never change an answer.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace lift {

// What followed the last time the end of `tokens` appeared: the longest end of 4 down to 2 tokens
// that appeared before, its latest appearance; at most `most` tokens, none if there is no such end.
std::vector<int32_t> LookUpDraft(std::span<const int32_t> tokens, int64_t most);

// How many tokens to guess, from what guessing was worth so far. Pure but for its own counters; the
// caller brings the times. One for each source of guesses and size of batch.
class DraftControl {
 public:
  explicit DraftControl(int64_t most) : most_(most), length_(most > 0 ? 1 : 0) {}

  // Tokens to guess per sequence in the next step; 0 while guessing does not pay.
  int64_t length() const;
  // After a step that guessed: tokens guessed and accepted over all sequences, tokens delivered,
  // and the seconds of guessing and verifying.
  void OnDrafted(int64_t drafted, int64_t accepted, int64_t delivered, double seconds);
  // After a step of the same batch that did not.
  void OnPlain(int64_t delivered, double seconds);

  double acceptance() const { return drafted_ == 0 ? 0 : accepted_ / drafted_; }
  double plain_seconds_per_token() const { return plain_; }
  double drafted_seconds_per_token() const { return speculative_; }

 private:
  int64_t most_, length_;
  double plain_ = 0, speculative_ = 0;  // seconds per delivered token, moving averages
  double drafted_ = 0, accepted_ = 0;
  int64_t tries_ = 0, rest_ = 0;  // steps guessed since it last rested; steps left to rest
};

}  // namespace lift
