#include "router/draft.h"

#include <algorithm>
#include <cmath>

#include "router/predictor.h"

namespace lift::router {

double PassesPerToken(double right, int tokens) {
  double delivered = 1, all_right = 1;  // the pass itself draws one more
  for (int i = 0; i < tokens; ++i) delivered += all_right *= right;
  return 1 / delivered;
}

std::vector<DraftPlan> PlanDrafts(std::span<const VariantView> variants,
                                  const RouterConfig& config) {
  const bool allowed = config.most_drafts > 0;
  const bool known = allowed && config.predictor != nullptr && config.predictor->KnowsGuesses();
  std::vector<DraftPlan> plans;
  double least = 0;
  for (size_t v = 0; v < variants.size(); ++v) {
    DraftPlan plan{.bits = variants[v].bits_per_weight, .known = known};
    if (allowed && !known && v > 0) plan.variant = 0, plan.tokens = config.most_drafts;
    for (size_t d = 0; d < v && known; ++d) {
      const double right =
          config.predictor->RightGuesses(variants[d].bits_per_weight, variants[v].bits_per_weight);
      for (int tokens = 1; tokens <= config.most_drafts; ++tokens) {
        const double bits = (tokens * variants[d].bits_per_weight + variants[v].bits_per_weight) *
                            PassesPerToken(right, tokens);
        if (bits < plan.bits) plan = {static_cast<int>(d), tokens, bits, known};
      }
    }
    plan.bits = least = std::max(least, plan.bits);
    plans.push_back(plan);
  }
  return plans;
}

}  // namespace lift::router
