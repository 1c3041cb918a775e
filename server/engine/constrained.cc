// The loop's part of constraints: requests wait here until theirs is compiled.
#include <algorithm>

#include "server/engine/engine_loop.h"

namespace lift {

// Nothing to compute: nobody is here, or all wait for their constraints.
bool EngineLoop::Idle() const {
  return std::all_of(requests_.begin(), requests_.end(),
                     [](const LiveRequest* request) { return request->group.compiling(); });
}

// How long an idle engine sleeps: it reports its idle memory, and looks at deadlines and
// cancellations of those that wait for a constraint.
std::chrono::milliseconds EngineLoop::Patience() const {
  return requests_.empty() ? options_.idle_charge : std::chrono::milliseconds(5);
}

void EngineLoop::SetConstraint(RequestGroup& group,
                               absl::StatusOr<std::shared_ptr<const CompiledConstraint>> result) {
  if (group.unfinished == 0) return;  // cancelled or late meanwhile
  if (!result.ok()) return FinishAll(group, FinishReason::kError, result.status());
  group.constraint = *std::move(result);
}

}  // namespace lift
