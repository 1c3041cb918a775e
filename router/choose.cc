#include "router/choose.h"

#include <algorithm>
#include <cmath>

#include "router/draft.h"

namespace lift::router {
namespace {

constexpr double kNegligibleKl =
    1e-3;  // nats; below this more bits change nothing one could notice
constexpr double kUnfitKl =
    0.5;  // nats; beyond this text visibly degrades: only who pins it gets it
constexpr double kPressureStrength = 0.6;  // a saturated queue takes this part of the score
constexpr double kLeastPrice = 1e-9, kMostPrice = 1e3;  // nats for one bit
constexpr int kPriceSteps = 30;                         // halvings of their logarithm's range

bool AllMeasured(std::span<const VariantView> variants) {
  return std::all_of(variants.begin(), variants.end(),
                     [](const VariantView& v) { return KnownKl(v) >= 0; });
}

// Where each variant stands between the coarsest fit one (0) and the finest worth having (1): on
// the logarithm of calibrated KL, or on lambda if some variant was not measured. Non-decreasing.
std::vector<double> Positions(std::span<const VariantView> variants) {
  const bool measured = AllMeasured(variants);
  const auto scale = [&](const VariantView& v) {
    return measured ? -std::log(std::max(KnownKl(v), kNegligibleKl)) : v.lambda;
  };
  // Variants unfit for AUTO stand where the coarsest fit one does, before it, so no score is
  // nearest to them. If all are unfit, all take part.
  const double low = scale(variants[FirstFitVariant(variants)]);
  const double high = scale(variants.back());
  std::vector<double> positions;
  double position = 0;
  for (const VariantView& v : variants) {
    position = std::max(position, high > low       ? (scale(v) - low) / (high - low)
                                  : scale(v) < low ? 0.0
                                                   : 1.0);
    positions.push_back(std::min(position, 1.0));
  }
  return positions;
}

// The variant nearest to the score; monotone in the score.
int NearestVariant(double score, std::span<const double> positions) {
  for (size_t i = 0; i + 1 < positions.size(); ++i) {
    if (positions[i] >= 1 || score < (positions[i] + positions[i + 1]) / 2)
      return static_cast<int>(i);
  }
  return static_cast<int>(positions.size()) - 1;
}

}  // namespace

size_t FirstFitVariant(std::span<const VariantView> variants) {
  if (!AllMeasured(variants)) return 0;
  const auto fit = std::find_if(variants.begin(), variants.end(),
                                [](const VariantView& v) { return KnownKl(v) <= kUnfitKl; });
  return fit == variants.end() ? 0 : static_cast<size_t>(fit - variants.begin());
}

Chooser::Chooser(double score, double harm, std::span<const VariantView> variants,
                 const RouterConfig& config)
    : score_(score), variants_(variants), config_(config), first_fit_(FirstFitVariant(variants)) {
  for (const DraftPlan& plan : PlanDrafts(variants, config)) bits_.push_back(plan.bits);
  for (size_t v = 0; v < variants.size(); ++v) losses_.push_back(LossOf(v, harm));
  const Policy::Kind kind = config.policy.kind;
  if (config.predictor == nullptr || kind == Policy::Kind::kQuality || kind == Policy::Kind::kFixed)
    return;
  for (const double typical : config.predictor->quantiles()) {
    for (size_t v = 0; v < variants.size(); ++v) training_losses_.push_back(LossOf(v, typical));
  }
}

int Chooser::Choose(double pressure) const {
  const Policy& policy = config_.policy;
  switch (policy.kind) {
    case Policy::Kind::kFixed: {
      const auto it = std::find_if(variants_.begin(), variants_.end(),
                                   [&](const VariantView& v) { return v.name == policy.variant; });
      return static_cast<int>(it == variants_.end() ? variants_.size() - 1
                                                    : static_cast<size_t>(it - variants_.begin()));
    }
    case Policy::Kind::kQuality:
      return ChooseByQuality(policy.max_loss, pressure);
    case Policy::Kind::kBalanced:
      if (config_.predictor == nullptr) return ChooseByScore(pressure);
      break;
    case Policy::Kind::kBudget:
      break;
  }
  const double calm = policy.kind == Policy::Kind::kBudget ? policy.budget_bits : BalancedBits();
  // A saturated queue leaves AUTO the coarsest fit variant; on the way there the budget shrinks.
  const double least = std::min(calm, bits_[first_fit_]);
  return ChooseByBudget(calm - pressure * (calm - least));
}

int Chooser::ChooseByScore(double pressure) const {
  return NearestVariant(score_ * (1 - kPressureStrength * pressure), Positions(variants_));
}

int Chooser::ChooseByQuality(double cap, double pressure) const {
  // Between the cap and what the coarsest fit variant loses on an average query, by logarithm.
  const double coarsest = LossOf(first_fit_, 0);
  if (pressure > 0 && coarsest > cap) cap *= std::pow(coarsest / cap, pressure);
  for (size_t v = first_fit_; v < variants_.size(); ++v) {
    if (losses_[v] >= 0 && losses_[v] <= cap) return static_cast<int>(v);
  }
  return static_cast<int>(variants_.size()) - 1;
}

double Chooser::BalancedBits() const {
  size_t finest = first_fit_;
  while (finest + 1 < variants_.size() && !(LossOf(finest, 0) <= kNegligibleKl)) ++finest;
  return (bits_[first_fit_] + bits_[finest]) / 2;
}

double Chooser::LossOf(size_t variant, double harm) const {
  const VariantView& v = variants_[variant];
  if (config_.predictor == nullptr) return KnownKl(v);
  return config_.predictor->ExpectedKl(harm, v.bits_per_weight);
}

// Where loss plus price times bits is least; the coarser one of equals. losses: [variants].
int Chooser::CheapestFor(std::span<const double> losses, double price) const {
  size_t best = first_fit_;
  double least = 0;
  for (size_t v = first_fit_; v < variants_.size(); ++v) {
    const double cost = losses[v] + price * bits_[v];
    if (v == first_fit_ || cost < least) best = v, least = cost;
  }
  return static_cast<int>(best);
}

// Over the queries the predictor was trained on.
double Chooser::MeanBits(double price) const {
  const std::span<const double> losses = training_losses_;
  double sum = 0;
  for (size_t at = 0; at < losses.size(); at += variants_.size()) {
    const int v = CheapestFor(losses.subspan(at, variants_.size()), price);
    sum += bits_[static_cast<size_t>(v)];
  }
  return sum * static_cast<double>(variants_.size()) / static_cast<double>(losses.size());
}

int Chooser::ChooseByBudget(double bits) const {
  if (config_.predictor == nullptr) {  // all queries are alike: the finest that the budget pays
    size_t v = first_fit_;
    while (v + 1 < variants_.size() && bits_[v + 1] <= bits) ++v;
    return static_cast<int>(v);
  }
  // The lowest price at which queries like the training ones stay within the budget: equal prices
  // for all are what makes the mean loss least (Lagrange).
  double low = std::log(kLeastPrice), high = std::log(kMostPrice);
  for (int step = 0; step < kPriceSteps; ++step) {
    const double middle = (low + high) / 2;
    (MeanBits(std::exp(middle)) <= bits ? high : low) = middle;
  }
  return CheapestFor(losses_, std::exp(high));
}

}  // namespace lift::router
