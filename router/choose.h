// The choice among variants that a policy makes, before floors (internal to the router).
#pragma once

#include <span>
#include <vector>

#include "router/predictor.h"
#include "router/router.h"

namespace lift::router {

// As calibrated, nats; -1 = unknown. The source does not diverge from itself.
inline double KnownKl(const VariantView& v) { return v.kl < 0 && v.lambda >= 1 ? 0 : v.kl; }

// One query before one set of variants. Borrows all of its arguments.
class Chooser {
 public:
  // score: complexity in [0, 1], what the balanced policy goes by without a predictor.
  Chooser(double score, double harm, std::span<const VariantView> variants,
          const RouterConfig& config);

  // The policy's choice; pressure in [0, 1] lowers it.
  int Choose(double pressure) const;
  // Nats to the finest variant, of each; from calibration if there is no predictor, -1 = unknown.
  const std::vector<double>& losses() const { return losses_; }

 private:
  int ChooseByScore(double pressure) const;
  int ChooseByBudget(double bits) const;
  int ChooseByQuality(double cap, double pressure) const;
  double BalancedBits() const;
  int CheapestFor(std::span<const double> losses, double price) const;
  double MeanBits(double price) const;
  double LossOf(size_t variant, double harm) const;

  double score_;
  std::span<const VariantView> variants_;
  const RouterConfig& config_;
  size_t first_fit_ = 0;      // coarser ones degrade text visibly: left to those who pin them
  std::vector<double> bits_;  // plane bits per weight and token that each variant reads
  std::vector<double> losses_;
  std::vector<double> training_losses_;  // [quantiles, variants], where a budget needs them
};

}  // namespace lift::router
