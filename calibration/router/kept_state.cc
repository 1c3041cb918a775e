#include "calibration/router/kept_state.h"

namespace lift {

std::vector<KeptState> CompareKeptState(const TraceSet& traces) {
  std::vector<KeptState> out;
  for (size_t v = 0; v < traces.variants.size(); ++v) {
    KeptState& mean = out.emplace_back();
    mean.variant = traces.variants[v].name;
    mean.bits_per_weight = traces.variants[v].bits_per_weight;
    double positions = 0;
    for (const PromptTrace& p : traces.prompts) {
      if (p.kept.empty()) return {};
      if (p.half() == 0) continue;
      const auto* kl = p.kl.data() + static_cast<int64_t>(v) * p.positions;
      for (int64_t i = p.half(); i < p.positions; ++i) mean.staying_kl += kl[i];
      const auto count = static_cast<double>(p.positions - p.half());
      mean.kept_kl += p.kept[v] * count;
      positions += count;
    }
    if (positions == 0) return {};
    mean.staying_kl /= positions;
    mean.kept_kl /= positions;
  }
  return out;
}

}  // namespace lift
