// Dropping and bringing back the finest variants while requests live.
#include <numeric>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/engine/engine_loop.h"

namespace lift {

// Between its check at submission and now the resident variants may have changed.
void EngineLoop::Welcome(const std::shared_ptr<LiveRequest>& request) {
  observer_.OnAdmitted(request->request);
  requests_.push_back(request);
  request->variant = resident_ - 1;
  const auto resident = std::span(views_).first(static_cast<size_t>(resident_.load()));
  auto route = router::Route(request->features, {}, request->request.precision, resident, {});
  if (route.ok()) return;
  Finish(*request, FinishReason::kError, std::move(route).status());
  Sweep();
}

// Can `request` go on, or begin, if only `count` variants are left?
absl::Status EngineLoop::CheckResident(const LiveRequest& request, int count) const {
  if (request.finished || (request.decided && request.variant < count)) return absl::OkStatus();
  const auto left = std::span(views_).first(static_cast<size_t>(count));
  const auto route = router::Route(request.features, {}, request.request.precision, left, {});
  if (route.ok()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "PRECISION_IN_USE: request '", request.request.request_id, "' needs what would be dropped (",
      route.status().message(), "); try again when it has ended, or cancel it"));
}

absl::StatusOr<ResidencyChange> EngineLoop::SetResident(int count) {
  if (count < 1 || static_cast<size_t>(count) > views_.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot keep ", count, " variants; the model has ", views_.size()));
  }
  for (const auto& request : requests_) LIFT_RETURN_IF_ERROR(CheckResident(*request, count));
  ResidencyChange change{.before = resident_, .after = count};
  for (const auto& request : requests_) {
    if (request->finished) continue;
    if (request->prompt_variant >= count) {
      // Half a prompt at one precision and half at another would be a third precision.
      if (request->running && request->reading_prompt()) request->Preempt();
      request->prompt_variant = count - 1;
    }
    if (!request->decided) {
      request->variant = count - 1;
    } else if (request->variant >= count) {
      request->variant = count - 1;
      request->reason = router::Reason::kMemory;
      ++change.moved;
    }
  }
  std::vector<int> kept(static_cast<size_t>(count));
  std::iota(kept.begin(), kept.end(), 0);
  // Precision that comes back is offered once it is there; precision that goes, not a step longer.
  if (count < resident_) resident_ = count;
  meter_.Keep(count);
  model_.Retain(kept);
  resident_ = count;
  change.resident_bytes = meter_.weight_bytes();
  Publish();
  return change;
}

}  // namespace lift
