// Gradient-boosted regression trees on a few thousand rows: small, deterministic, exact splits.
// Friedman, "Greedy function approximation: a gradient boosting machine", 2001, for squared error,
// and "Stochastic gradient boosting", 2002: each tree sees a part of the rows and of the features.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "router/features.h"
#include "router/predictor.h"

namespace lift {

struct BoostOptions {
  int trees = 200;
  int depth = 3;
  double rate = 0.06;                             // how much of each tree is added
  int64_t fewest_rows = 12;                       // in a leaf
  double shrink = 4;                              // rows added to each leaf with a residual of 0
  double rows_share = 0.5, features_share = 0.5;  // that one tree sees, drawn anew for each
  uint64_t seed = 1;
  // For each feature +1 or -1 where the prediction may only rise or fall with it; 0 = free.
  std::array<int, router::kFeatureCount> monotone{};
  uint64_t unused = 0;  // bit i: feature i is never looked at
};

struct BoostedTrees {
  double base = 0;
  std::vector<router::Predictor::Tree> trees;  // leaves already multiplied by the rate
  // Squared error that splits on each feature took away in training.
  std::array<double, router::kFeatureCount> gain{};
};

// x: rows; y: their targets. NaN features go to the side where they fit better.
BoostedTrees Boost(std::span<const router::FeatureVector> x, std::span<const double> y,
                   const BoostOptions& options);

// The sum of base and the first `trees` trees.
double Predict(const BoostedTrees& model, const router::FeatureVector& x, size_t trees);

}  // namespace lift
