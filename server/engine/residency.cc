// Dropping and bringing back the finest variants while requests live.
#include <algorithm>
#include <numeric>
#include <vector>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "server/engine/engine_loop.h"

namespace lift {

// Can `request` go on, or begin, if only `count` variants are left?
absl::Status EngineLoop::CheckResident(const LiveRequest& request, int count) const {
  if (request.finished || (request.decided && request.variant < count)) return absl::OkStatus();
  const auto left = std::span(views_).first(static_cast<size_t>(count));
  const absl::Status status = router::CheckPrecision(request.request.precision, left);
  if (status.ok()) return status;
  return absl::FailedPreconditionError(absl::StrCat(
      "PRECISION_IN_USE: request '", request.request.request_id, "' needs what would be dropped (",
      status.message(), "); try again when it has ended, or cancel it"));
}

// The first refusal, with everybody who refuses.
absl::Status EngineLoop::CheckAllResident(int count) const {
  absl::Status first;
  std::string blockers;
  const RequestGroup* last = nullptr;  // choices of one request stand together
  for (const LiveRequest* request : requests_) {
    absl::Status status = CheckResident(*request, count);
    if (status.ok() || &request->group == last) continue;
    last = &request->group;
    absl::StrAppend(&blockers, blockers.empty() ? "" : "\n", request->request.request_id);
    if (first.ok()) first = std::move(status);
  }
  if (!first.ok()) first.SetPayload(kBlockersPayload, absl::Cord(blockers));
  return first;
}

void EngineLoop::MoveTo(LiveRequest& request, int count, ResidencyChange& change) {
  if (request.finished) return;
  const auto swapped = static_cast<std::ptrdiff_t>(request.swapped_tokens);
  const std::vector<uint8_t> saved_at(request.variants.begin(), request.variants.begin() + swapped);
  // Half a prompt at one precision and half at another would be a third precision.
  const bool half_read = request.running && request.reading_prompt() &&
                         request.variants[static_cast<size_t>(request.computed)] >= count;
  if (half_read) request.Preempt(EngineClock::now(), count);
  request.Clamp(request.computed, count);
  if (!request.decided) {
    request.variant = count - 1;
    // What has not begun is read at the finest there is now.
    if (!request.running) {
      std::fill(request.variants.begin(), request.variants.end(), static_cast<uint8_t>(count - 1));
    }
  } else if (request.variant >= count) {
    request.variant = count - 1;
    request.reason = router::Reason::kMemory;
    ++change.moved;
  }
  // State saved at a precision that the tokens no longer have.
  if (!std::equal(saved_at.begin(), saved_at.end(), request.variants.begin())) {
    request.DropSwapped();
    swap_used_ = swap_pool_.used();
  }
}

absl::StatusOr<ResidencyChange> EngineLoop::SetResident(int count) {
  if (count < 1 || static_cast<size_t>(count) > views_.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot keep ", count, " variants; the model has ", views_.size()));
  }
  LIFT_RETURN_IF_ERROR(CheckAllResident(count));
  ResidencyChange change{.before = resident_, .after = count};
  for (LiveRequest* request : requests_) MoveTo(*request, count, change);
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
