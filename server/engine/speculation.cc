#include "server/engine/speculation.h"

#include <algorithm>

namespace lift {
namespace {

constexpr double kWeight = 0.2;         // of a new measurement
constexpr int64_t kTrialSteps = 8;      // guessing is judged after so many
constexpr int64_t kRestSteps = 64;      // and, if it did not pay, tried again after so many
constexpr int64_t kRefreshSteps = 128;  // the plain step is measured again after so many

void Average(double& mean, double value) {
  mean = mean == 0 ? value : (1 - kWeight) * mean + kWeight * value;
}

}  // namespace

std::vector<int32_t> LookUpDraft(std::span<const int32_t> tokens, int64_t most) {
  for (size_t size = 4; size >= 2; --size) {
    if (tokens.size() <= size) continue;
    const auto end = tokens.last(size);
    for (size_t start = tokens.size() - size; start-- > 0;) {
      if (!std::equal(end.begin(), end.end(), tokens.begin() + static_cast<std::ptrdiff_t>(start)))
        continue;
      const auto next = tokens.subspan(start + size);
      const auto count = std::min(next.size(), static_cast<size_t>(most));
      return {next.begin(), next.begin() + static_cast<std::ptrdiff_t>(count)};
    }
  }
  return {};
}

int64_t DraftControl::length() const { return rest_ > 0 ? 0 : length_; }

void DraftControl::OnDrafted(int64_t drafted, int64_t accepted, int64_t delivered, double seconds) {
  drafted_ = (1 - kWeight) * drafted_ + static_cast<double>(drafted);
  accepted_ = (1 - kWeight) * accepted_ + static_cast<double>(accepted);
  if (delivered > 0) Average(speculative_, seconds / static_cast<double>(delivered));
  // Longer while nearly everything is accepted, shorter while less than half is.
  if (acceptance() > 0.8) length_ = std::min(length_ + 1, most_);
  if (acceptance() < 0.5) length_ = std::max<int64_t>(length_ - 1, 1);
  ++tries_;
  if (plain_ == 0) {
    rest_ = 1;  // nothing to compare with yet
  } else if (tries_ >= kTrialSteps && speculative_ >= plain_) {
    rest_ = kRestSteps;
    tries_ = 0;
    speculative_ = 0;
    length_ = 1;
  } else if (tries_ >= kRefreshSteps) {
    rest_ = 1;
    tries_ = kTrialSteps;
  }
}

void DraftControl::OnPlain(int64_t delivered, double seconds) {
  if (delivered > 0) Average(plain_, seconds / static_cast<double>(delivered));
  if (rest_ > 0) --rest_;
}

}  // namespace lift
