// When precision rises inside an answer.
#include "router/router.h"

namespace lift::router {
namespace {

constexpr double kWeight = 0.25;      // of the newest token in the average: it spans some 7 tokens
constexpr int64_t kFewestTokens = 4;  // at one variant before it is judged
constexpr double kNoticeableKl = 1e-3;  // nats

}  // namespace

bool Escalation::Watches(int variant, const PrecisionRequest& request,
                         std::span<const VariantView> variants) const {
  if (entropy_ <= 0 || request.mode == Mode::kPinned) return false;
  const auto next = static_cast<size_t>(variant) + 1;
  if (next >= variants.size()) return false;
  const double kl = variants[next - 1].kl;
  return !(kl >= 0 && kl <= kNoticeableKl);
}

int Escalation::Next(int variant, std::span<const float> logits, const PrecisionRequest& request,
                     std::span<const VariantView> variants) {
  if (!Watches(variant, request, variants)) return variant;
  return NextByEntropy(variant, SignalsFromLogits(logits, 1).last_entropy, request, variants);
}

int Escalation::NextByEntropy(int variant, double entropy, const PrecisionRequest& request,
                              std::span<const VariantView> variants) {
  if (!Watches(variant, request, variants)) return variant;
  average_ = seen_ == 0 ? entropy : (1 - kWeight) * average_ + kWeight * entropy;
  if (++seen_ < kFewestTokens || !(average_ >= entropy_)) return variant;
  seen_ = 0;
  return variant + 1;
}

}  // namespace lift::router
