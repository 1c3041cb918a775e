// The loop's part of probing: the last token of a prompt at a coarse variant, too, for the router.
#include "server/engine/engine_loop.h"

namespace lift {

// -1: the router would not look at it, or the model's state cannot be looked at twice.
int EngineLoop::ProbeVariant(const LiveRequest& request) const {
  if (!request.leads() || request.decided || !model_.reusable_state()) return -1;
  const auto resident = std::span(views_).first(static_cast<size_t>(resident_.load()));
  return router::ProbeVariant(request.request.precision, resident, options_.router);
}

// Appends a chunk for each prompt that the step ends; their logits come after those of the plan.
void EngineLoop::AddProbes(const StepPlan& plan, std::vector<SequenceChunk>& chunks) {
  int64_t row = 0;
  for (const SequenceChunk& chunk : chunks) row += LogitRows(chunk);
  for (const PlanChunk& planned : plan.chunks) {
    LiveRequest& request = *requests_[planned.sequence];
    request.probe_row = -1;
    if (request.computed + planned.tokens != request.prompt_tokens()) continue;
    const int variant = ProbeVariant(request);
    if (variant < 0) continue;
    request.probe_row = row++;
    chunks.push_back(LookAtLast(request.request.prompt, request.table.blocks(), variant));
  }
}

// fine: what the finest variant makes of the prompt. -1 without a probe.
double EngineLoop::ProbeKl(const LiveRequest& request, std::span<const float> fine) const {
  if (request.probe_row < 0) return -1;
  const size_t from = static_cast<size_t>(request.probe_row) * fine.size();
  return router::KlOfLogits(fine, std::span(logits_).subspan(from, fine.size()));
}

}  // namespace lift
