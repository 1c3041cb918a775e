// Attention over the paged key/value cache on the GPU. Layout and semantics are those of WriteKv
// and Attention in kernels/backend.h; every pointer but `sequences` and their block tables is
// device memory. Queued, not waited for.
//
// Keys are taken in spans of a fixed number counted from position 0, and the spans' sums are folded
// in order, by one block or, where there are few of them, by a second kernel. So a row's bits
// depend on its own sequence alone, not on the batch, on chunking or on how the work was split.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/backend.h"
#include "kernels/cuda/command_queue.h"

namespace lift::cuda {

struct DeviceSequence;
struct SequenceTile;

// What the kernels read of a step's sequences, in staging memory: valid for the commands of one
// batch. One serves all layers whose block size and heads per key/value head are equal. Where
// contexts grow within a power of two, an equal step has equal addresses and counts.
struct AttentionStep {
  // Tiles of query rows (tokens x heads of a group) that share loaded keys: of up to 1, 2, 4, 8 and
  // 16 rows.
  static constexpr int kClasses = 5;
  struct Tiles {
    const SequenceTile* tiles = nullptr;
    int64_t count = 0;
    int64_t keys = 0;  // most that a sequence has, rounded up to a power of two
  };

  const DeviceSequence* sequences = nullptr;
  const SequenceTile* write_tiles = nullptr;
  int64_t write_count = 0, write_tokens = 0;  // tiles of new tokens; most tokens of one
  Tiles attend[kClasses];
};
AttentionStep StageAttention(CommandQueue& queue, const AttentionShape& shape,
                             std::span<const AttentionSequence> sequences);

void QueueWriteKv(CommandQueue& queue, std::byte* cache, const AttentionShape& shape,
                  const AttentionStep& step, const float* k, const float* v);
void QueueWriteKv(CommandQueue& queue, std::byte* cache, const AttentionShape& shape,
                  std::span<const AttentionSequence> sequences, const float* k, const float* v);

// Bytes of device memory that QueueAttention needs at `workspace` (4-byte aligned), at most 64 MiB.
// It may be shared by all layers.
size_t AttentionWorkspaceBytes(const AttentionShape& shape, const AttentionStep& step);
size_t AttentionWorkspaceBytes(const AttentionShape& shape,
                               std::span<const AttentionSequence> sequences);

void QueueAttention(CommandQueue& queue, const std::byte* cache, const AttentionShape& shape,
                    const AttentionStep& step, const float* q, float* out, float* workspace);
void QueueAttention(CommandQueue& queue, const std::byte* cache, const AttentionShape& shape,
                    std::span<const AttentionSequence> sequences, const float* q, float* out,
                    float* workspace);

}  // namespace lift::cuda
