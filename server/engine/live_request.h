// One answer from submission to its end (queued -> reading the prompt -> routed -> decoding ->
// finished), and the request it belongs to.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/engine/engine.h"
#include "server/engine/planner.h"
#include "server/engine/prefix_cache.h"
#include "server/engine/state_pool.h"
#include "server/engine/stop_matcher.h"

namespace lift {

struct LiveRequest;

// What the answers (choices) of one request have in common. The submitting thread builds it from a
// valid request; from then on it belongs to the engine thread, apart from `cancelled`.
struct RequestGroup {
  // Where the state is while a sequence runs, and while it was preempted.
  struct Pools {
    BlockPool& state;
    BlockPool& swap;
  };
  RequestGroup(EngineRequest request, std::shared_ptr<RequestListener> listener,
               const Tokenizer& tokenizer, Pools pools, int64_t block_tokens, int finest);

  EngineRequest request;
  std::shared_ptr<RequestListener> listener;
  router::TextFeatures features;
  router::PromptKind kind;  // for whoever observes decisions
  uint64_t arrival = 0;
  EngineClock::time_point submitted;
  std::atomic<bool> cancelled{false};

  // The first one leads: it reads the prompt while the others wait to share it.
  std::vector<std::unique_ptr<LiveRequest>> choices;
  size_t unfinished = 0;
  std::optional<router::Decision> decision;  // the leader's, for all
  std::vector<SampledToken> prompt_logprobs;
  std::vector<ChoiceEnd> ends;  // [choices]
  // Of request.constraint; not scheduled while it is being compiled.
  std::shared_ptr<const CompiledConstraint> constraint;
  bool compiling() const { return request.constraint != nullptr && constraint == nullptr; }
  FinishedEvent summary;  // of the choices that ended so far
};

// Engine thread only.
struct LiveRequest {
  LiveRequest(RequestGroup& group, int choice, const Tokenizer& tokenizer,
              RequestGroup::Pools pools, int64_t block_tokens, int finest);

  RequestGroup& group;
  const EngineRequest& request;  // the group's
  const int choice;
  SamplingParams sampling;  // the request's, with this choice's own seed

  BlockTable table;
  PrefixCursor cursor;
  std::vector<int32_t> tokens;    // prompt + generated
  std::vector<uint8_t> variants;  // the precision each of them is (to be) computed at
  int64_t computed = 0;           // leading tokens whose state is in the table
  int64_t snapshot_tokens = 0;    // chunks of the prompt end at multiples of it; 0 = anywhere
  int64_t probe_row = -1;         // of the logits, in the step under way, that the router compares
  BlockTable swapped;             // waiting: blocks of the swap space with the state of ...
  int64_t swapped_tokens = 0;     // ... this many leading tokens
  bool running = false;           // admitted, holds blocks
  bool decided = false;           // the router has chosen `variant`
  bool finished = false;
  int variant = 0;                                // of the next tokens; the finest until decided
  router::Reason reason = router::Reason::kAuto;  // of `variant`
  router::Escalation escalation{0};
  std::vector<PrecisionSpan> spans;
  RequestUsage usage;
  EngineClock::time_point waiting_since;
  std::optional<EngineClock::time_point> admitted, first_token, last_token;
  int64_t generated_at_admission = 0;
  std::vector<int32_t> drafts;  // guesses of what follows `tokens`, in the step under way
  int64_t drafts_wanted = 0;
  bool drafts_looked_up = false;

  bool leads() const { return choice == 0; }
  // Nothing to do yet: the leader is still reading the prompt, or the constraint is compiled.
  bool following() const { return (!leads() && !group.decision) || group.compiling(); }
  // The logits of every prompt token are needed, so all of them are computed.
  bool WantsPromptLogprobs() const { return leads() && !decided && request.prompt_logprobs >= 0; }
  int64_t prompt_tokens() const { return static_cast<int64_t>(request.prompt.size()); }
  // Leading tokens that are computed as a prompt's.
  int64_t prefill_tokens() const { return ReadAsPrompt(prompt_tokens()) ? prompt_tokens() : 0; }
  int64_t generated() const { return static_cast<int64_t>(tokens.size()) - prompt_tokens(); }
  int64_t most_tokens() const { return prompt_tokens() + request.stopping.max_new_tokens - 1; }
  bool reading_prompt() const { return computed < prompt_tokens(); }
  // From `first` up to the next token of another precision, the next place for a snapshot or the
  // end of the prompt.
  int64_t SegmentTokens(int64_t first) const;
  PlanSequence Snapshot(EngineClock::time_point now) const;
  // Gives back the blocks of which no later step reads anything (StepModel::state_window).
  void DropBehind(int64_t window) {
    if (window > 0) table.DropBefore(computed - window + 1);
  }
  // What is in the swap space is not needed, or not true, any more.
  void DropSwapped() {
    swapped.Clear();
    swapped_tokens = 0;
  }
  // Gives back its blocks: everything that is not in the swap space is computed again after the
  // next admission, at the precisions it had as far as they are among the `resident` coarsest.
  void Preempt(EngineClock::time_point now, int resident);
  // From `first` on nothing is (to be) computed at a variant that is not resident.
  void Clamp(int64_t first, int resident);

  // The next token, of those the constraint allows; end and stop tokens are out of the question
  // while min_new_tokens is not reached, unless the constraint leaves nothing else.
  SampledToken SampleNext(std::span<const float> logits) const { return SampleAhead(logits, 0); }
  // A guess of the token `ahead` places later, with the random number it will be drawn with.
  SampledToken SampleAhead(std::span<const float> logits, int64_t ahead) const;
  struct Accepted {
    TokenEvent token;
    std::optional<FinishReason> finish;
    std::string matched_stop;
  };
  Accepted Accept(SampledToken sampled);
  // Text still held back, for the end of the stream.
  std::string Tail();
  RequestTimings Timings(EngineClock::time_point now) const;

 private:
  std::string TokenText(int32_t id) const;
  // Of the text so far and `ahead` guesses behind it; kDead if a guess is not allowed.
  int32_t ConstraintStateAhead(int64_t ahead) const;
  SampledToken Draw(std::span<const float> logits, int64_t ahead,
                    std::span<const int32_t> banned) const;

  const Tokenizer& tokenizer_;
  StreamDecoder decoder_;
  StopMatcher matcher_;
  std::vector<int32_t> ending_ids_;          // stop ids and, unless ignored, the model's end tokens
  std::vector<int32_t> ending_controls_;     // those of them that are no text
  std::optional<int32_t> constraint_state_;  // once a token has been drawn
  bool penalized_;
  TokenHistory history_;  // kept only if a penalty needs it
};

}  // namespace lift
