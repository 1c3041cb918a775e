// The loop's part of placing state: who gives blocks back, who gets them, and what lies in the swap
// space meanwhile.
#include <algorithm>

#include "server/engine/engine_loop.h"

namespace lift {
namespace {

// Until the first copy is timed: a slow machine's memory.
constexpr double kAssumedCopyBytesPerSecond = 2e9;

}  // namespace

void EngineLoop::Apply(StepPlan& plan, EngineClock::time_point now) {
  for (const size_t i : plan.swap) SwapOut(*requests_[i]);
  for (const size_t i : plan.preempt) {
    if (requests_[i]->swapped_tokens == 0) ++recomputed_;
    requests_[i]->Preempt(now, resident_);
  }
  // Before anybody allocates: what the plan took for shared must not be evicted.
  for (const size_t i : plan.admit) TakePrefix(*requests_[i]);
  for (const size_t i : plan.admit) {
    LiveRequest& request = *requests_[i];
    request.running = true;
    request.generated_at_admission = request.generated();
    request.table.Cover(static_cast<int64_t>(request.tokens.size()));
    SwapIn(request);
  }
  for (PlanChunk& chunk : plan.chunks) {
    LiveRequest& request = *requests_[chunk.sequence];
    // Others admitted in this step may have taken the place of the snapshot that was planned with.
    chunk.tokens = std::min(chunk.tokens, request.SegmentTokens(request.computed));
    request.table.Cover(request.computed + chunk.tokens + chunk.drafts);
  }
  Publish();
}

double EngineLoop::SwapBlockMicros() const {
  if (options_.preemption == EngineOptions::Preemption::kSwap) return 0;
  if (swap_block_micros_ > 0) return swap_block_micros_;
  return static_cast<double>(model_.bytes_per_block()) / kAssumedCopyBytesPerSecond * 1e6;
}

// The fastest it was ever done: recomputation is overrated rarely, and swapping never by that.
double EngineLoop::ComputeTokenMicros() const {
  switch (options_.preemption) {
    case EngineOptions::Preemption::kRecompute:
      return 0;
    case EngineOptions::Preemption::kSwap:
      return 1;
    default:
      return fastest_token_seconds_ * 1e6;
  }
}

std::span<std::byte> EngineLoop::SwapSlot(int32_t block) {
  const auto size = static_cast<size_t>(model_.bytes_per_block());
  return {swap_.get() + static_cast<size_t>(block) * size, size};
}

// Also what others share: by the time it is wanted again they may have gone.
void EngineLoop::SwapOut(LiveRequest& request) {
  const auto start = EngineClock::now();
  request.swapped.Cover(request.computed);
  request.swapped_tokens = request.computed;
  const auto slots = request.swapped.blocks();
  for (size_t i = 0; i < slots.size(); ++i) {
    model_.SaveBlock(request.table.blocks()[i], SwapSlot(slots[i]));
  }
  const std::chrono::duration<double, std::micro> took = EngineClock::now() - start;
  swap_block_micros_ = std::max(1e-3, took.count() / static_cast<double>(slots.size()));
  ++swapped_;
  swap_used_ = swap_pool_.used();
}

// What the cache has is shared; the rest is copied back.
void EngineLoop::SwapIn(LiveRequest& request) {
  if (request.swapped_tokens > request.computed) {
    const auto slots = request.swapped.blocks();
    for (auto i = static_cast<size_t>(request.computed / model_.block_tokens()); i < slots.size();
         ++i) {
      model_.RestoreBlock(request.table.blocks()[i], SwapSlot(slots[i]));
    }
    request.computed = request.swapped_tokens;
    ++restored_;
  }
  request.DropSwapped();
  swap_used_ = swap_pool_.used();
}

}  // namespace lift
