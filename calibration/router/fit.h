// Trains the router's predictor from traces.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "calibration/router/boost.h"
#include "calibration/router/trace.h"
#include "kernels/base/status.h"
#include "router/predictor.h"

namespace lift {

struct FitOptions {
  // Prompts of one source are never on both sides of a split, so that what is measured is how the
  // predictor does on sources it has not seen.
  int folds = 5;
  int max_trees = 250;  // the best number is found on the folds
  BoostOptions boost;
};

struct FeatureUse {
  std::string name;
  double gain = 0;     // share of the squared error that splits on it took away
  double without = 0;  // rank correlation of a predictor that never looks at it
};

// All on prompts of sources that were left out of training.
struct FitReport {
  int64_t prompts = 0, positions = 0;
  int trees = 0;
  double rank_correlation = 0;  // Spearman, of predicted and true harm
  double spread = 0;            // standard deviation of true harm: what there is to predict
  std::vector<double> kl_rank_correlation;  // of each variant's mean KL
  double calibration_error = 0;  // mean |predicted / true - 1| of mean KL over deciles of harm
  double guess_error = 0;  // mean |predicted - true| share of right guesses over pairs of variants
  struct Bin {
    double predicted = 0, measured = 0;  // geometric mean over variants of mean KL, nats
  };
  std::vector<Bin> reliability;      // deciles of predicted harm
  std::vector<FeatureUse> features;  // the five with the largest gain, in order
};

struct Fit {
  std::shared_ptr<const router::Predictor> predictor;
  FitReport report;
};

// INVALID_ARGUMENT for fewer than 100 prompts, fewer sources than folds, or variants that hardly
// differ.
absl::StatusOr<Fit> FitPredictor(const TraceSet& traces, const FitOptions& options);

// True harm of each prompt: the mean over the coarser variants of log KL, less its mean over all
// prompts.
std::vector<double> TrueHarm(const TraceSet& traces);

// Spearman's rank correlation; ties share their rank.
double RankCorrelation(const std::vector<double>& a, const std::vector<double>& b);

}  // namespace lift
