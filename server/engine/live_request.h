// One request from submission to its end: queued -> reading the prompt -> routed -> decoding ->
// finished.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/engine/engine.h"
#include "server/engine/planner.h"
#include "server/engine/state_pool.h"
#include "server/engine/stop_matcher.h"

namespace lift {

// The submitting thread builds it from a valid request and fills in features and variant; from
// then on it belongs to the engine thread, apart from `cancelled`.
struct LiveRequest {
  LiveRequest(EngineRequest request, std::shared_ptr<RequestListener> listener,
              const Tokenizer& tokenizer, BlockPool& pool, int64_t block_tokens);

  EngineRequest request;
  std::shared_ptr<RequestListener> listener;
  router::TextFeatures features;
  uint64_t arrival = 0;
  EngineClock::time_point submitted;
  std::atomic<bool> cancelled{false};

  BlockTable table;
  std::vector<int32_t> tokens;  // prompt + generated
  int64_t computed = 0;         // leading tokens whose state is in the table
  bool running = false;         // admitted, holds blocks
  bool decided = false;         // the router has chosen `variant`
  bool finished = false;
  int variant = 0;         // of decoding; the finest until decided
  int prompt_variant = 0;  // the prompt is read at it: the finest when the reading began
  router::Reason reason = router::Reason::kAuto;  // of `variant`
  std::vector<PrecisionSpan> spans;
  RequestUsage usage;
  std::optional<EngineClock::time_point> admitted, first_token, last_token;

  int64_t prompt_tokens() const { return static_cast<int64_t>(request.prompt.size()); }
  int64_t generated() const { return static_cast<int64_t>(tokens.size()) - prompt_tokens(); }
  bool reading_prompt() const { return computed < prompt_tokens(); }
  PlanSequence Snapshot() const;
  // Forgets its state: everything is computed again after the next admission.
  void Preempt();

  // The next token; end and stop tokens are out of the question while min_new_tokens is not
  // reached.
  SampledToken SampleNext(std::span<const float> logits) const;
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

  const Tokenizer& tokenizer_;
  StreamDecoder decoder_;
  StopMatcher matcher_;
  std::vector<int32_t> ending_ids_;  // stop ids and, unless ignored, the model's end tokens
  bool penalized_;
  TokenHistory history_;  // kept only if a penalty needs it
};

}  // namespace lift
