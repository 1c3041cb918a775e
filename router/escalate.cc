// When precision rises inside an answer.
#include "router/router.h"

namespace lift::router {
namespace {

constexpr double kWeight = 0.25;      // of the newest token in the average: it spans some 7 tokens
constexpr int64_t kFewestTokens = 4;  // at one variant before it is judged
constexpr double kNoticeableKl = 1e-3;  // nats

}  // namespace

int Escalation::Next(int variant, std::span<const float> logits, const PrecisionRequest& request,
                     std::span<const VariantView> variants) {
  if (entropy_ <= 0 || request.mode == Mode::kPinned) return variant;
  const auto next = static_cast<size_t>(variant) + 1;
  if (next >= variants.size()) return variant;
  const double kl = variants[next - 1].kl;
  if (kl >= 0 && kl <= kNoticeableKl) return variant;
  const double entropy = SignalsFromLogits(logits, 1).last_entropy;
  average_ = seen_ == 0 ? entropy : (1 - kWeight) * average_ + kWeight * entropy;
  if (++seen_ < kFewestTokens || !(average_ >= entropy_)) return variant;
  seen_ = 0;
  return variant + 1;
}

}  // namespace lift::router
