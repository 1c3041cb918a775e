// What the next step does: a pure function of a snapshot of the sequences.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace lift {

struct PlanSequence {
  bool running = false;  // admitted: holds blocks
  int priority = 0;      // higher first
  uint64_t arrival = 0;  // lower first among equals; kept through preemption
  int64_t prompt_tokens = 0;
  int64_t known_tokens = 0;     // prompt + generated
  int64_t computed_tokens = 0;  // whose state is in the blocks; < known_tokens
  int64_t blocks = 0;           // held
};

struct PlanLimits {
  int64_t max_batch = 1;
  int64_t prefill_tokens = 1;  // per step over all sequences that are not decoding
  int64_t block_tokens = 1;
  int64_t free_blocks = 0;
};

struct PlanChunk {
  size_t sequence = 0;  // index into the snapshot
  int64_t tokens = 0;
  bool operator==(const PlanChunk&) const = default;
};

// Apply in this order: preempt, admit, run. A sequence that is planned gets blocks for
// computed_tokens + tokens; an admitted one gets blocks for all its known tokens at once, so only
// decoding can run out of them.
struct StepPlan {
  std::vector<size_t>
      preempt;  // give back every block and wait again; their state is recomputed later
  std::vector<size_t> admit;
  std::vector<PlanChunk> chunks;  // decodes first
};

// Order of service is priority, then arrival. Every decoding sequence gets its token; what is left
// of the pool and the prefill budget goes to prompts (and recomputation) in order. When a decoding
// sequence needs a block and none is free, the last running sequence in order is preempted, so the
// first always advances. A waiting sequence is admitted if the pool takes all its known tokens and
// leaves a block for every running one; nobody is admitted past one who does not fit, so nobody
// starves. No chunk crosses the end of the prompt: the prompt is read at another precision than
// what follows.
StepPlan PlanStep(std::span<const PlanSequence> sequences, const PlanLimits& limits);

}  // namespace lift
