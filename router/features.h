// What a trained predictor may look at: everything of TextFeatures and PrefillSignals as one vector
// of numbers, by name.
#pragma once

#include <array>
#include <span>
#include <string_view>

#include "router/router.h"

namespace lift::router {

inline constexpr size_t kFeatureCount = 20;
using FeatureVector = std::array<double, kFeatureCount>;

// In FeatureVector's order. A stored predictor names the features it was trained on, so the order
// may change between versions.
std::span<const std::string_view, kFeatureCount> FeatureNames();

// Counts and the probe are on a logarithmic scale. Without prefill signals the last five are NaN
// ("not known"), without a probe the last one, and a tree sends them where most of its training
// data went.
FeatureVector Features(const TextFeatures& text, const PrefillSignals& prefill);

}  // namespace lift::router
