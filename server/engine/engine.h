// Continuous batching over a StepModel: one loop thread, many concurrent requests, each at its own
// variant.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/base/status.h"
#include "router/prompt_class.h"
#include "router/router.h"
#include "server/constraint/constraint.h"
#include "server/engine/sampler.h"
#include "server/model/step_model.h"
#include "server/tokenizer/tokenizer.h"

namespace lift {

using EngineClock = std::chrono::steady_clock;

struct StoppingParams {
  int64_t max_new_tokens = 256;
  int64_t min_new_tokens = 0;
  std::vector<std::string> stop_strings;
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
};

// Reuse of the state of prompts that were read before.
struct CacheParams {
  bool bypass = false;  // neither reuse nor leave anything
  std::string salt;     // only requests of the same tenant with the same salt share
};

struct EngineRequest {
  std::string request_id;          // unique among live requests; the engine makes one if empty
  std::string tenant = "default";  // for metering only; never given to the router
  std::vector<int32_t> prompt;     // token ids, validated at submission
  std::string prompt_text;         // for the router's text features (may be empty)
  int64_t turns = 1;
  int choices = 1;           // answers to the one prompt, see ChoiceSeed
  int prompt_logprobs = -1;  // -1 = none; else of every prompt token, with this many best ones
  SamplingParams sampling;
  StoppingParams stopping;
  router::PrecisionRequest precision;
  std::optional<EngineClock::time_point> deadline;
  int priority = 0;
  std::string traceparent = {};  // W3C trace context of the caller, for the log only; may be empty
  uint64_t sequence = 0;         // the engine's own number, from 1 on; set at submission
  CacheParams cache;
  // What every answer's text must be; null = anything. Compiled before the request is scheduled.
  std::shared_ptr<const ConstraintSource> constraint = nullptr;
};

inline constexpr int kMaxChoices = 64;
// Answer `choice` of a request is the answer of a request with this seed.
inline uint64_t ChoiceSeed(uint64_t seed, int choice) {
  return seed + static_cast<uint64_t>(choice);
}

enum class FinishReason { kStop, kLength, kCancelled, kDeadline, kError, kDrained };
std::string_view FinishReasonName(FinishReason reason);

// Memory x time this request was charged with. Byte-seconds as (bytes * microseconds) sums.
struct RequestUsage {
  int64_t prompt_tokens = 0, generated_tokens = 0, cached_tokens = 0;
  unsigned __int128 weight_byte_us = 0, kv_byte_us = 0;
  void Add(const RequestUsage& other) {
    prompt_tokens += other.prompt_tokens;
    generated_tokens += other.generated_tokens;
    cached_tokens += other.cached_tokens;
    weight_byte_us += other.weight_byte_us;
    kv_byte_us += other.kv_byte_us;
  }
};

struct RequestTimings {
  double queue_seconds = 0, prefill_seconds = 0, decode_seconds = 0, ttft_seconds = 0,
         total_seconds = 0;
};

// Consecutive tokens of an answer at one variant, and why it was that one from there on.
struct PrecisionSpan {
  int variant = 0;
  int64_t tokens = 0;
  router::Reason reason = router::Reason::kAuto;
};

struct StartedEvent {
  router::Decision decision;
  int variant = 0;
  int64_t prompt_tokens = 0, cached_tokens = 0;
  // Of prompt tokens 1, 2, ... given those before them, if asked for.
  std::vector<SampledToken> prompt_logprobs;
};

// One per generated token, the last one included. The token that ended generation (a stop id or the
// model's end token) has an id and no text; the one that completed a stop string has the text
// before it. Text that may still become a stop string is held back.
struct TokenEvent {
  int32_t id = 0;
  std::string text;  // complete UTF-8 that this token released (may be empty)
  SampledToken sampled;
  int variant = 0;
  int choice = 0;
};

// How one answer of a request ended.
struct ChoiceEnd {
  FinishReason reason = FinishReason::kStop;
  std::string matched_stop;  // stop string or token text that ended it
  std::string tail_text;     // text released at the end
  uint64_t seed_used = 0;
  int64_t generated_tokens = 0;
};

// reason to seed_used are the first answer's; usage is the sum of all.
struct FinishedEvent {
  FinishReason reason = FinishReason::kStop;
  std::string matched_stop;  // stop string or token text that ended it
  std::string tail_text;     // text released at the end
  absl::Status status;  // not OK for kError / kDeadline / kCancelled / kDrained ("DRAINING: ...")
  RequestUsage usage;
  RequestTimings timings;
  uint64_t seed_used = 0;
  int variant = 0;  // the last one; the finest if it ended before the router decided
  std::vector<PrecisionSpan> spans = {};  // of all tokens, in order; of several answers the first's
  std::vector<ChoiceEnd> choices = {};    // all of them, in order
};

// Called on the engine thread (OnFinished: see EngineOptions::acknowledge); must not block. A slow
// reader is the listener's business: it queues (bounded by max_new_tokens) or cancels. Exactly one
// OnFinished per admitted request, after which the listener is dropped.
class RequestListener {
 public:
  virtual ~RequestListener() = default;
  virtual void OnStarted(const StartedEvent& event) = 0;
  virtual void OnToken(const TokenEvent& event) = 0;
  virtual void OnFinished(const FinishedEvent& event) = 0;
};

// What a decision was made of, beside the request itself.
struct RoutedEvent {
  const router::Decision& decision;
  int variant = 0;
  router::SystemState state;
  int resident_variants = 0;  // the coarsest; those it could choose from
  int64_t prompt_tokens = 0;
  router::PromptKind kind = {};  // for reports; the router was not told
};

// What the engine reports for metrics and billing; called on the engine thread (OnRejected: on the
// submitting one), must be cheap.
class EngineObserver {
 public:
  virtual ~EngineObserver() = default;
  virtual void OnAdmitted(const EngineRequest& request) { (void)request; }
  virtual void OnRejected(const EngineRequest& request, const absl::Status& status) {
    (void)request;
    (void)status;
  }
  virtual void OnDecision(const router::Decision& decision, int variant, double seconds) {
    (void)decision;
    (void)variant;
    (void)seconds;
  }
  // The same decision as the log of decisions wants it; once a request, however many answers.
  virtual void OnRouted(const EngineRequest& request, const RoutedEvent& event) {
    (void)request;
    (void)event;
  }
  virtual void OnFirstToken(int variant, double ttft_seconds) {
    (void)variant;
    (void)ttft_seconds;
  }
  virtual void OnInterToken(int variant, double seconds) {
    (void)variant;
    (void)seconds;
  }
  // Before the request's listener hears of it.
  virtual void OnFinished(const EngineRequest& request, const FinishedEvent& event) {
    (void)request;
    (void)event;
  }
  // Memory x time of the interval just ended, split as the billing rules say: what each request
  // owes, then __idle__ and __overhead__ (variant -1, sequence 0). Sums to resident_byte_us, the
  // resident bytes x interval, exactly. At least once a second, also when idle.
  struct Charge {
    std::string tenant;
    int variant;
    bool kv;
    unsigned __int128 byte_us;
    uint64_t sequence = 0;  // EngineRequest::sequence
  };
  virtual void OnCharges(std::span<const Charge> charges, unsigned __int128 resident_byte_us) {
    (void)charges;
    (void)resident_byte_us;
  }
};

struct EngineOptions {
  int64_t max_batch = 32;              // sequences in a step
  int64_t max_waiting = 256;           // beyond this: UNAVAILABLE QUEUE_FULL
  int64_t prefill_chunk_tokens = 256;  // prompt tokens per step, over all sequences
  // The same in a step that also decodes, at most: a long prompt must not hold up those who stream.
  // Fewer where so many would take more than StepTimes::kMostStall times a step without.
  int64_t prefill_beside_tokens = 64;
  bool prefix_cache = true;     // reuse the state of prompts read before
  bool share_prefixes = false;  // also between tenants (their timing then tells what others asked)
  // Of a recurrent model: prompt tokens between two snapshots of its state; at least 1.
  int64_t snapshot_tokens = 128;
  std::chrono::milliseconds aging{1000};    // of waiting count as one level of priority
  std::chrono::milliseconds patience{500};  // of waiting; then sequences of others are displaced
  // An engine without work charges what is resident this often; a running one does after every
  // step.
  std::chrono::milliseconds idle_charge{1000};
  // Precision rises inside an answer, one variant at a time, when the average entropy of what it is
  // drawn from reaches this many nats (router::Escalation); never of a pinned one. 0 = never.
  double escalation = 0;
  // Policy and predictor of AUTO. Its most_drafts tokens are guessed ahead per step and sequence,
  // at most; 0 = none. Guesses are what followed the same tokens before, or what a coarser variant
  // says (router::PlanDrafts), and are verified at the request's own variant: answers are the same.
  // Switched off by itself while it does not pay.
  router::RouterConfig router = {};
  // Memory beside the state pool for the state of preempted sequences, which then need not be
  // computed again; rounded down to whole blocks, allocated at once and metered as state. 0 = none.
  int64_t swap_bytes = 0;
  enum class Preemption { kCheaper, kRecompute, kSwap };  // kSwap: whenever it fits
  Preemption preemption = Preemption::kCheaper;
  uint64_t weight_resident_bytes = 0;  // for the meter; 0 = what the variants declare
  // EngineRequest::sequence of the first request: engines that share an account count apart.
  uint64_t first_sequence = 1;
  EngineObserver* observer = nullptr;
  // Tells a listener of its end: runs its argument exactly once, on any thread, when what the
  // observer was told of the request is safe. Null: at once, on the engine thread.
  std::function<void(std::function<void()>)> acknowledge = {};
};

// Payload of a refused change: the ids of the requests in its way, a line each.
inline constexpr const char* kBlockersPayload = "liftserve.dev/blockers";

// What a change of the resident variants did.
struct ResidencyChange {
  int before = 0, after = 0;    // variants resident, always the coarsest
  int64_t moved = 0;            // streams that went on at a coarser variant, within their floors
  uint64_t resident_bytes = 0;  // weights, after
};

// What guessing ahead did so far.
struct SpeculationStats {
  int64_t looked_up = 0, looked_up_accepted = 0;  // tokens guessed from what was said before
  int64_t drafted = 0, drafted_accepted = 0;      // by a coarser variant
};

// How sequences gave their blocks back to others so far, and what is in the swap space now.
struct PreemptionStats {
  int64_t recomputed = 0, swapped = 0, restored = 0;  // sequences
  int64_t swap_blocks_used = 0, swap_blocks_total = 0;
};

struct EngineLoad {
  int64_t running = 0, waiting = 0, blocks_used = 0, blocks_total = 0;  // sequences; blocks held
  int64_t blocks_cached = 0;   // held by nobody, reused if their prefix comes again
  int resident_variants = -1;  // the coarsest; -1 = all
  PreemptionStats preemption = {};
  bool draining = false;
};

// Thread-safe. The engine owns its loop thread; `model` and `tokenizer` must outlive it and the
// model is used by no one else.
class Engine {
 public:
  Engine(StepModel& model, std::shared_ptr<const Tokenizer> tokenizer, EngineOptions options);
  ~Engine();  // finishes live requests with kDrained

  // Validates and queues. INVALID_ARGUMENT (empty prompt, ids out of range, sampling, prompt +
  // max_new_tokens over the context), NOT_FOUND (variant), FAILED_PRECONDITION (floor), UNAVAILABLE
  // (QUEUE_FULL: ..., DRAINING: ...), ALREADY_EXISTS (request id), DEADLINE_EXCEEDED (already past,
  // or sooner than the prompt can be read). Returns the request id. On error the listener is never
  // called; it may be called before Submit returns.
  absl::StatusOr<std::string> Submit(EngineRequest request,
                                     std::shared_ptr<RequestListener> listener);
  // False if no such live request. The slot is free within one step; the listener gets kCancelled.
  bool Cancel(const std::string& request_id);
  // Refuse new work; live requests go on. Returns true when idle before the timeout.
  bool Drain(std::chrono::milliseconds timeout);
  EngineLoad load() const;
  SpeculationStats speculation() const;
  // Of the resident variants, ascending precision.
  std::vector<router::VariantView> variant_views() const;
  const router::RouterConfig& router() const;
  // The `count` coarsest variants can serve now; 1 to all.
  int resident_variants() const;
  // Between two steps, drops the weights of all but the `count` coarsest variants, or brings
  // weights back. Live streams go on: one at a dropped variant moves to the finest that is left if
  // its floor allows, and a prompt read at a dropped variant is read again. INVALID_ARGUMENT for a
  // count outside 1 to all; FAILED_PRECONDITION (PRECISION_IN_USE: ...), with nothing changed, if a
  // live request is pinned to a dropped variant or has its floor above what would be left (all
  // such requests in kBlockersPayload);
  // UNAVAILABLE at shutdown. `done` is called once, on the engine thread.
  void SetResidentVariants(int count, std::function<void(absl::StatusOr<ResidencyChange>)> done);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lift
