// The one thread that runs the model: takes requests over, plans a step, runs it, charges it,
// delivers its tokens.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "server/engine/planner.h"
#include "server/engine/registry.h"
#include "server/engine/step_meter.h"

namespace lift {

class EngineLoop {
 public:
  EngineLoop(StepModel& model, const EngineOptions& options, RequestRegistry& registry,
             std::vector<router::VariantView> views);

  // Until the registry is stopped; then finishes what lives with kDrained.
  void Run();

  // For building requests; only the engine thread changes it.
  BlockPool& pool() { return pool_; }
  // Any thread: seconds per token of the fastest large step so far, so no prompt is read faster; 0
  // before the first.
  double fastest_token_seconds() const { return fastest_token_seconds_; }
  // Any thread: how many variants, the coarsest, are resident.
  int resident() const { return resident_; }
  // Engine thread, between steps; see Engine::SetResidentVariants.
  absl::StatusOr<ResidencyChange> SetResident(int count);

 private:
  void Welcome(const std::shared_ptr<LiveRequest>& request);
  absl::Status CheckResident(const LiveRequest& request, int count) const;
  void EndExpired();
  void RunStep();
  StepPlan Plan() const;
  void Apply(const StepPlan& plan);
  std::vector<SequenceChunk> Chunks(const StepPlan& plan) const;
  void RunModel(const std::vector<SequenceChunk>& chunks);
  void Charge(const StepPlan& plan, const std::vector<SequenceChunk>& chunks);
  void Settle(std::span<const StepMeter::Holder> holders);
  void Advance(const StepPlan& plan, const std::vector<SequenceChunk>& chunks);
  void Decide(LiveRequest& request, std::span<const float> logits);
  void Deliver(LiveRequest& request, std::span<const float> logits);
  void Finish(LiveRequest& request, FinishReason reason, absl::Status status,
              std::string matched_stop = {});
  void Sweep();
  void Publish();

  StepModel& model_;
  const EngineOptions options_;
  RequestRegistry& registry_;
  const std::vector<router::VariantView> views_;
  EngineObserver silent_;
  EngineObserver& observer_;
  BlockPool pool_;
  StepMeter meter_;
  std::vector<std::shared_ptr<LiveRequest>> requests_;  // waiting and running
  std::vector<float> logits_;
  const EngineClock::time_point started_;
  uint64_t settled_micros_ = 0;  // since started_
  std::atomic<double> fastest_token_seconds_{0};
  std::atomic<int> resident_;
};

}  // namespace lift
