// What the engine needs from a model. The real runner implements it, and so does the tests' fake
// model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/base/status.h"
#include "kernels/format/lifted_file.h"

namespace lift {

// New tokens of one sequence in one step.
struct SequenceChunk {
  enum class Logits { kNone, kLast, kAll };
  std::span<const int32_t> tokens;  // at least 1
  int64_t position = 0;             // tokens of this sequence already in the cache
  std::span<const int32_t> blocks;  // block table, covers position + tokens.size()
  int variant = 0;                  // index into StepModel::variants()
  Logits logits = Logits::kLast;
  // These are a prompt's tokens: lifted layers before the output head may take the way that is
  // fastest for many tokens, with other roundings than an answer's (see kPrefillRow). A sequence's
  // state depends on which of its tokens were computed so; full variants make no difference.
  bool prefill = false;
  // Looks only: writes no state. Keys and values of its positions are those that another chunk of
  // the step, or an earlier step, wrote there. Not of a recurrent model.
  bool look = false;
};

// Looks at the last of these tokens of a sequence with another variant, beside the chunk that
// computes it, or after it.
inline SequenceChunk LookAtLast(std::span<const int32_t> tokens, std::span<const int32_t> blocks,
                                int variant) {
  return {.tokens = tokens.last(1),
          .position = static_cast<int64_t>(tokens.size()) - 1,
          .blocks = blocks,
          .variant = variant,
          .look = true};
}

// Rows of logits that a step gives for it.
inline int64_t LogitRows(const SequenceChunk& chunk) {
  switch (chunk.logits) {
    case SequenceChunk::Logits::kNone:
      return 0;
    case SequenceChunk::Logits::kLast:
      return 1;
    case SequenceChunk::Logits::kAll:
      break;
  }
  return static_cast<int64_t>(chunk.tokens.size());
}

// Is a prompt of so many tokens computed with SequenceChunk::prefill? A shorter one takes less time
// as an answer's tokens. Of the prompt alone, so that a request always gives the same.
constexpr bool ReadAsPrompt(int64_t prompt_tokens) { return prompt_tokens >= 8; }

// Bytes one step read or kept, for the meter.
struct StepStats {
  uint64_t weight_bytes_read = 0;
  double seconds = 0;
};

// One caller thread. Deterministic: a sequence's logits do not depend on what else is in the step,
// on chunking or on threads.
class StepModel {
 public:
  virtual ~StepModel() = default;
  virtual int64_t vocab_size() const = 0;
  virtual int64_t max_context() const = 0;
  // Ascending precision; the last one is the finest (prompts are read at it).
  virtual std::span<const LiftedVariant> variants() const = 0;
  virtual int64_t block_tokens() const = 0;  // tokens per state block
  virtual int64_t num_blocks() const = 0;    // blocks in the pool
  virtual int64_t bytes_per_block() const = 0;
  // State of a position depends on the tokens and precisions up to it alone and lies in the block
  // of that position: full blocks may be shared by sequences with the same prefix, and positions
  // may be computed again. A model with recurrent state says false: it is neither shared nor
  // rewound, but can be copied.
  virtual bool reusable_state() const { return true; }
  // Block `to` becomes a copy of block `from`. Between steps; only of a recurrent model, where a
  // block is the state of one sequence as its last step left it.
  virtual void CopyState(int32_t from, int32_t to) {
    (void)from, (void)to;
    LIFT_CHECK(!"this model's state is shared by block");
  }
  // Tokens before a position, itself included, whose state steps from there on may read; 0 = all.
  // Block tables may hold -1 for blocks that lie entirely before them.
  virtual int64_t state_window() const { return 0; }
  // Block contents can be copied out of the pool and back, as SaveBlock and RestoreBlock do.
  virtual bool swappable_state() const { return false; }
  // Copies the state in `block` to `out`, or `in` to the state in `block`: [bytes_per_block()].
  // What is restored, into this or another block, gives the logits it would have given. Between
  // steps; CHECKs unless swappable_state().
  virtual void SaveBlock(int32_t block, std::span<std::byte> out);
  virtual void RestoreBlock(int32_t block, std::span<const std::byte> in);
  // Runs one step. logits: f32 [rows asked for, vocab] in chunk order; resized here. Token ids
  // outside the vocabulary, bad variants and short block tables are programmer errors (CHECK): the
  // engine validates requests at admission.
  virtual StepStats Step(std::span<const SequenceChunk> chunks, std::vector<float>& logits) = 0;
  // Of the weights, only what these variants read stays in memory: the rest is given back to the
  // system, and what is missing is read in before this returns. Between steps; later steps name
  // only these variants. A hint for models whose weights cannot leave.
  virtual void Retain(std::span<const int> variants) { (void)variants; }
};

inline void StepModel::SaveBlock(int32_t, std::span<std::byte>) {
  LIFT_CHECK(false);  // swappable_state() says no
}
inline void StepModel::RestoreBlock(int32_t, std::span<const std::byte>) { LIFT_CHECK(false); }

}  // namespace lift
