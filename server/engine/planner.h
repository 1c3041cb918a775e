// What the next step does: a pure function of a snapshot of the sequences.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace lift {

struct PlanSequence {
  bool running = false;  // admitted: holds blocks
  int priority = 0;      // higher first, among one tenant's
  int tenant = 0;        // index into PlanLimits::credits
  uint64_t arrival = 0;  // lower first among equals; kept through preemption
  int64_t age_us = 0;    // since arrival
  int64_t wait_us = 0;   // waiting: since it last held blocks or arrived
  int64_t progress = 0;  // running: tokens generated since it was admitted
  int64_t prompt_tokens = 0;
  int64_t known_tokens = 0;     // prompt + generated
  int64_t computed_tokens = 0;  // whose state is in the blocks; < known_tokens
  int64_t segment_tokens = 0;   // from the first that is not computed up to the next one of another
                                // precision; >= 1
  int64_t most_tokens = 0;      // whose state it may ever need; >= known_tokens
  int64_t blocks = 0;           // held
  int64_t owned_blocks = 0;     // of these, by nobody else
  int64_t drafts = 0;           // decoding: tokens it would like to guess and have verified
  bool swappable = false;       // running: its state can be copied out and back
};

// What the cache and the swap space have of a waiting sequence.
struct PlanPrefix {
  int64_t computed_tokens = 0;  // whose state it takes over when it is admitted
  int64_t segment_tokens = 0;   // as PlanSequence's, from there
  int64_t shared_blocks = 0;    // of these that others hold now: they take no free ones
};

struct PlanLimits {
  int64_t max_batch = 1;
  int64_t prefill_tokens = 1;     // per step over all sequences that are not decoding
  int64_t prefill_beside = 1;     // the same in a step that also decodes
  int64_t step_tokens = 1 << 20;  // over all sequences; decoding ones get one each in any case
  int64_t block_tokens = 1;
  int64_t free_blocks = 0;
  int64_t total_blocks = 0;
  int64_t growth_tokens = 0;     // what a running sequence is expected to need beside what it has
  int64_t aging_us = 0;          // waiting this long is worth one level of priority; 0 = nothing
  int64_t patience_us = 0;       // after it a waiting sequence may displace others; 0 = never
  int64_t free_swap_blocks = 0;  // of the swap space; 0 = preempted state is always computed again
  double swap_block_us = 0;      // copying a block, one way
  double compute_token_us = 0;   // computing a token's state again
  int64_t quantum_tokens = 32;   // which a sequence generates before it can be displaced
  std::span<const double> credits = {};  // by tenant, see FairShare; empty: one tenant
  double request_cost = 0;               // expected charge of one request, in units of the credits
  // Asked for candidates only; empty: nothing is cached.
  std::function<PlanPrefix(size_t)> prefix = {};
};

struct PlanChunk {
  size_t sequence = 0;  // index into the snapshot
  int64_t tokens = 0;
  int64_t drafts = 0;  // guessed tokens that may follow them
  bool operator==(const PlanChunk&) const = default;
};

// Apply in this order: preempt, admit, run. A sequence that is planned gets blocks for
// computed_tokens + tokens + drafts; an admitted one gets blocks for all its known tokens at once,
// so only decoding can run out of them.
struct StepPlan {
  std::vector<size_t> preempt;  // give back every block and wait again
  std::vector<size_t> swap;     // of these, whose state is copied to the swap space before
  std::vector<size_t> admit;
  std::vector<PlanChunk> chunks;  // decodes first
};

// Order of service. Tenants take turns: the next one served is always the one with the most credit
// left after the expected cost of what it has already; among a tenant's own, priority plus aging,
// then arrival. So no tenant's priorities or numbers take anything from another.
//
// Every decoding sequence gets its token. What is left of the budget goes to prompts (and
// recomputation) in order, then to drafts. When a decoding sequence needs a block and none is free,
// the last running one in order is preempted. A waiting sequence is admitted if the pool takes its
// known tokens and leaves what the running ones are expected to need; nobody is admitted past one
// who does not fit, so nobody starves. One that waited `patience_us` displaces the last running one
// that has had its quantum, if that one's tenant has at least two more running than its own, or if
// it is of the same tenant and less important. A preempted sequence's state goes to the swap space
// if it fits there and copying it out and back takes less time than computing again what nobody
// else holds of it. No chunk crosses a border of precision.
StepPlan PlanStep(std::span<const PlanSequence> sequences, const PlanLimits& limits);

}  // namespace lift
