// Random predictors, variants and queries for the router's property tests.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "router/predictor.h"
#include "router/router.h"

namespace lift::router::test {

class RandomRouter {
 public:
  explicit RandomRouter(uint64_t seed) : random_(seed) {}

  double Real(double low, double high) {
    return low + (high - low) * (static_cast<double>(random_() >> 11) * 0x1p-53);
  }
  int Int(int low, int high) {
    return low + static_cast<int>(random_() % static_cast<uint64_t>(high - low + 1));
  }

  Predictor::Parts Parts() {
    Predictor::Parts parts;
    parts.base = Real(-0.2, 0.2);
    for (int t = Int(0, 20); t > 0; --t) {
      Predictor::Tree tree(3);
      tree[0] = {.feature = Int(0, static_cast<int>(kFeatureCount) - 1),
                 .threshold = Real(0, 6),
                 .low = 1,
                 .high = 2,
                 .unknown_is_low = Int(0, 1) == 1,
                 .value = 0};
      tree[1].value = Real(-0.3, 0.3);
      tree[2].value = Real(-0.3, 0.3);
      parts.trees.push_back(tree);
    }
    double bits = Real(1, 2), level = Real(-1, 1);
    const double slope = Real(0.3, 1.2);
    for (int k = Int(1, 6); k > 0; --k) {
      parts.curve.push_back({bits, level, slope});
      bits += Real(0.3, 2), level -= Real(0.3, 2);
    }
    parts.finest_bits = bits;
    if (Int(0, 1) == 1) parts.probe_bits = parts.curve.front().bits;
    if (Int(0, 3) > 0) parts.wrong_scale = Real(0.01, 1.5), parts.wrong_power = Real(0.2, 1.2);
    for (int q = Int(2, 40); q > 0; --q) parts.quantiles.push_back(Real(-2, 2));
    std::sort(parts.quantiles.begin(), parts.quantiles.end());
    parts.version = "trained-test";
    parts.report = R"({"prompts":3})";
    return parts;
  }

  std::vector<VariantView> Variants() {
    std::vector<VariantView> variants;
    double bits = Real(1, 3), kl = Real(0.05, 2);
    const bool measured = Int(0, 9) > 0;
    for (int v = Int(1, 7); v > 0; --v) {
      variants.push_back({"q" + std::to_string(variants.size()), std::log2(bits) / 4, bits,
                          measured ? kl : -1, static_cast<uint64_t>(bits * 1e6)});
      bits += Real(0.2, 2), kl *= Real(0.05, 0.9);
    }
    if (Int(0, 3) == 0) variants.push_back({"full", 1, 16, -1, 16000000});
    return variants;
  }

  TextFeatures Text() {
    TextFeatures t;
    t.bytes = Int(0, 4000), t.words = Int(0, 700), t.lines = Int(0, 40), t.sentences = Int(0, 30);
    t.mean_word_length = Real(0, 12), t.distinct_word_ratio = Real(0, 1);
    t.digit_ratio = Real(0, 1), t.symbol_ratio = Real(0, 1), t.non_ascii_ratio = Real(0, 1);
    t.has_code = Int(0, 1) == 1, t.has_math = Int(0, 1) == 1;
    t.reasoning_words = Int(0, 4), t.turns = Int(1, 9);
    return t;
  }

  PrefillSignals Prefill() {
    return {.available = Int(0, 4) > 0,
            .prompt_tokens = Int(1, 2000),
            .mean_nll = Real(0, 9),
            .last_entropy = Real(0, 9),
            .last_margin = Real(0, 1),
            .probe_kl = Int(0, 3) > 0 ? Real(0, 2) : -1};
  }

  RouterConfig Config(bool trained) {
    RouterConfig config;
    config.most_drafts = std::max(0, Int(-2, 4));
    if (trained) config.predictor = *Predictor::Create(Parts());
    switch (Int(0, 3)) {
      case 1:
        config.policy = {.kind = Policy::Kind::kBudget, .budget_bits = Real(1, 12)};
        break;
      case 2:
        config.policy = {.kind = Policy::Kind::kQuality, .max_loss = Real(1e-4, 1)};
        break;
      case 3:
        config.policy = {.kind = Policy::Kind::kFixed, .variant = "q1"};
        break;
      default:
        break;
    }
    return config;
  }

 private:
  std::mt19937_64 random_;
};

}  // namespace lift::router::test
