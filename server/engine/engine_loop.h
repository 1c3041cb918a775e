// The one thread that runs the model: takes requests over, plans a step, runs it, charges it,
// delivers its tokens.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "router/draft.h"
#include "router/pressure.h"
#include "router/router.h"
#include "server/engine/fair_share.h"
#include "server/engine/planner.h"
#include "server/engine/prefix_cache.h"
#include "server/engine/registry.h"
#include "server/engine/snapshot_cache.h"
#include "server/engine/speculation.h"
#include "server/engine/step_meter.h"
#include "server/engine/step_times.h"

namespace lift {

class EngineLoop {
 public:
  EngineLoop(StepModel& model, const EngineOptions& options, RequestRegistry& registry,
             std::vector<router::VariantView> views);

  // Until the registry is stopped; then finishes what lives with kDrained.
  void Run();

  // For building requests; only the engine thread changes it.
  BlockPool& pool() { return pool_; }
  BlockPool& swap_pool() { return swap_pool_; }
  // Any thread: seconds per token of the fastest large step so far, so no prompt is read faster; 0
  // before the first.
  double fastest_token_seconds() const { return fastest_token_seconds_; }
  // Any thread: how many variants, the coarsest, are resident.
  int resident() const { return resident_; }
  // Engine thread, between steps; see Engine::SetResidentVariants.
  absl::StatusOr<ResidencyChange> SetResident(int count);
  // Engine thread, between steps: the group's constraint is ready, or it cannot be met.
  void SetConstraint(RequestGroup& group,
                     absl::StatusOr<std::shared_ptr<const CompiledConstraint>> result);
  // Of the fastest step of any size, so no answer of n tokens takes less than n of these (n - 1 if
  // its prompt is counted as above).
  double fastest_step_seconds() const { return fastest_step_seconds_; }
  // Any thread.
  SpeculationStats speculation() const {
    return {looked_up_, looked_up_accepted_, drafted_, drafted_accepted_};
  }
  // Any thread.
  PreemptionStats preemption() const {
    return {recomputed_, swapped_, restored_, swap_used_, swap_pool_.total()};
  }

 private:
  void TakeOver(std::shared_ptr<RequestGroup> group);
  void RefuseIfLate(LiveRequest& leader);
  void FinishAll(RequestGroup& group, FinishReason reason, const absl::Status& status);
  absl::Status CheckResident(const LiveRequest& request, int count) const;
  absl::Status CheckAllResident(int count) const;
  void MoveTo(LiveRequest& request, int count, ResidencyChange& change);
  void EndExpired();
  bool Idle() const;
  std::chrono::milliseconds Patience() const;
  void RunStep();
  StepPlan Plan(EngineClock::time_point now) const;
  // State; in placement.cc.
  void Apply(StepPlan& plan, EngineClock::time_point now);
  double SwapBlockMicros() const;
  double ComputeTokenMicros() const;
  std::span<std::byte> SwapSlot(int32_t block);
  void SwapOut(LiveRequest& request);
  void SwapIn(LiveRequest& request);
  // Reuse of what was computed before; in sharing.cc.
  bool Caches(const LiveRequest& request) const;
  SnapshotCache::Match FindSnapshot(const LiveRequest& request) const;
  void TakeSnapshot(LiveRequest& request);
  void RememberSnapshot(LiveRequest& request);
  // Takes what the cache has of the sequence's prefix; it must hold nothing yet.
  void TakePrefix(LiveRequest& request);
  // Moves the cursor, which passed all blocks before, along what the cache has of the sequence.
  std::vector<int32_t> FindPrefix(const LiveRequest& request, PrefixCursor& cursor) const;
  PlanPrefix Prefix(const LiveRequest& request) const;
  // How the state of tokens [first, first + count) is computed, as the cache's keys have it.
  std::vector<uint8_t> Precisions(const LiveRequest& request, size_t first, size_t count) const;
  void RememberBlocks(LiveRequest& request);
  // In probe.cc.
  int ProbeVariant(const LiveRequest& request) const;
  void AddProbes(const StepPlan& plan, std::vector<SequenceChunk>& chunks);
  double ProbeKl(const LiveRequest& request, std::span<const float> logits) const;
  // Speculation; in speculate.cc.
  DraftControl& Control(bool looked_up, int64_t decoding);
  void WantDrafts();
  void Guess(StepPlan& plan);
  void GuessByCoarser(std::span<PlanChunk*> chunks);
  void JudgeGuesses(const StepPlan& plan, int64_t delivered, double seconds);
  std::vector<SequenceChunk> Chunks(const StepPlan& plan) const;
  void RunModel(const std::vector<SequenceChunk>& chunks);
  void Charge(const StepPlan& plan, const std::vector<SequenceChunk>& chunks);
  void Settle(std::span<const StepMeter::Holder> holders);
  void Advance(const StepPlan& plan, const std::vector<SequenceChunk>& chunks);
  void AddPromptLogprobs(LiveRequest& request, int64_t tokens, std::span<const float> rows);
  void Decide(LiveRequest& request, std::span<const float> logits);
  void WatchQueue(EngineClock::time_point now);
  void Escalate(LiveRequest& request, std::span<const float> logits);
  void Deliver(LiveRequest& request, std::span<const float> logits);
  void DeliverGuessed(LiveRequest& request, std::span<const float> rows);
  void Finish(LiveRequest& request, FinishReason reason, absl::Status status,
              std::string matched_stop = {});
  void FinishGroup(RequestGroup& group);
  void Sweep();
  void Publish();

  StepModel& model_;
  const EngineOptions options_;
  RequestRegistry& registry_;
  const std::vector<router::VariantView> views_;
  EngineObserver silent_;
  EngineObserver& observer_;
  BlockPool pool_;
  BlockPool swap_pool_;                // of the blocks in swap_
  std::unique_ptr<std::byte[]> swap_;  // [swap_pool_.total() * bytes_per_block]
  double swap_block_micros_ = 0;       // one way, as last measured; 0 = never
  std::atomic<int64_t> recomputed_{0}, swapped_{0}, restored_{0}, swap_used_{0};
  PrefixCache cache_;
  std::unique_ptr<SnapshotCache> snapshots_;  // instead, where state cannot be shared by block
  StepMeter meter_;
  FairShare shares_;
  std::vector<std::shared_ptr<RequestGroup>> groups_;
  std::vector<LiveRequest*> requests_;  // of groups_: waiting and running
  std::vector<float> logits_;
  std::vector<float> draft_logits_;
  const std::vector<router::DraftPlan> draft_plans_;  // of each variant
  std::vector<DraftControl> controls_;                // by source, then by size of batch
  std::atomic<int64_t> looked_up_{0}, looked_up_accepted_{0}, drafted_{0}, drafted_accepted_{0};
  const EngineClock::time_point started_;
  router::PressureGauge pressure_;   // of the queue
  EngineClock::time_point watched_;  // when the queue was last looked at
  uint64_t settled_micros_ = 0;      // since started_
  int64_t delivered_ = 0;            // tokens
  // Of those that finished, moving averages: what the next ones are expected to need.
  double expected_tokens_ = 0, expected_cost_ = 0;
  StepTimes step_times_;
  std::atomic<double> fastest_token_seconds_{0}, fastest_step_seconds_{0};
  std::atomic<int> resident_;
};

}  // namespace lift
