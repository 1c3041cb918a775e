#include "router/predictor.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace lift::router {
namespace {

constexpr size_t kMaxTrees = 4096, kMaxNodes = 256, kMaxKnots = 256, kMaxQuantiles = 4096;
constexpr double kLargest = 1e6;      // of any number in a predictor
constexpr double kLargestLogKl = 50;  // nats of more are all the same

bool Sane(double x) { return std::isfinite(x) && std::abs(x) <= kLargest; }

absl::Status CheckTree(const Predictor::Tree& tree) {
  if (tree.empty() || tree.size() > kMaxNodes) {
    return absl::InvalidArgumentError("the predictor has a tree without nodes or of too many");
  }
  for (size_t i = 0; i < tree.size(); ++i) {
    const Predictor::Node& node = tree[i];
    if (!Sane(node.threshold) || !Sane(node.value)) {
      return absl::InvalidArgumentError("the predictor has a number out of range");
    }
    if (node.feature < 0) continue;
    const auto later = [&](int child) {
      return child > static_cast<int>(i) && child < static_cast<int>(tree.size());
    };
    if (node.feature >= static_cast<int>(kFeatureCount) || !later(node.low) || !later(node.high)) {
      return absl::InvalidArgumentError("the predictor has a tree that is not one");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckCurve(const Predictor::Parts& parts) {
  if (parts.curve.empty() || parts.curve.size() > kMaxKnots) {
    return absl::InvalidArgumentError("the predictor's curve has no points or too many");
  }
  double before = 0;
  for (const Predictor::Knot& knot : parts.curve) {
    if (!Sane(knot.bits) || knot.bits <= before || std::abs(knot.level) > 100 ||
        !(knot.slope >= 0 && knot.slope <= 10)) {
      return absl::InvalidArgumentError("the predictor's curve is out of order or range");
    }
    before = knot.bits;
  }
  if (!Sane(parts.finest_bits) || parts.finest_bits <= before) {
    return absl::InvalidArgumentError("the predictor's finest variant is not above its curve");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Predictor>> Predictor::Create(Parts parts) {
  if (parts.trees.size() > kMaxTrees || !Sane(parts.base)) {
    return absl::InvalidArgumentError("the predictor has too many trees or no finite base");
  }
  for (const Tree& tree : parts.trees) {
    if (absl::Status status = CheckTree(tree); !status.ok()) return status;
  }
  if (absl::Status status = CheckCurve(parts); !status.ok()) return status;
  if (!Sane(parts.probe_bits) || parts.probe_bits < 0) {
    return absl::InvalidArgumentError("the predictor's probing variant is out of range");
  }
  if (!Sane(parts.wrong_scale) || parts.wrong_scale < 0 ||
      !(parts.wrong_power > 0 && parts.wrong_power <= 10)) {
    return absl::InvalidArgumentError("the predictor's share of wrong guesses is out of range");
  }
  const auto& q = parts.quantiles;
  if (q.size() < 2 || q.size() > kMaxQuantiles || !std::is_sorted(q.begin(), q.end()) ||
      !std::all_of(q.begin(), q.end(), [](double x) { return std::abs(x) <= 100; })) {
    return absl::InvalidArgumentError("the predictor's quantiles are not two or more, ascending");
  }
  return std::shared_ptr<const Predictor>(new Predictor(std::move(parts)));
}

Predictor::Predictor(Parts parts) : parts_(std::move(parts)) {
  const auto names = FeatureNames();
  const auto probe =
      static_cast<int>(std::find(names.begin(), names.end(), "probe") - names.begin());
  for (const Tree& tree : parts_.trees) {
    for (const Node& node : tree) uses_probe_ |= node.feature == probe && parts_.probe_bits > 0;
  }
}

double Predictor::ValueOf(const Tree& tree, const FeatureVector& features) {
  size_t at = 0;
  while (tree[at].feature >= 0) {
    const Node& node = tree[at];
    const double value = features[static_cast<size_t>(node.feature)];
    const bool low = std::isnan(value) ? node.unknown_is_low : value <= node.threshold;
    at = static_cast<size_t>(low ? node.low : node.high);
  }
  return tree[at].value;
}

double Predictor::Harm(const FeatureVector& features) const {
  double harm = parts_.base;
  for (const Tree& tree : parts_.trees) harm += ValueOf(tree, features);
  return std::clamp(harm, parts_.quantiles.front(), parts_.quantiles.back());
}

double Predictor::ExpectedKl(double harm, double bits) const {
  if (bits >= parts_.finest_bits) return 0;
  const auto log_kl = [&](const Knot& knot) { return knot.level + knot.slope * harm; };
  const std::vector<Knot>& curve = parts_.curve;
  double lowest = log_kl(curve.front());
  if (bits < curve.front().bits && curve.size() > 1) {  // fewer than were seen: the line goes on
    const double rise =
        std::max(0.0, (lowest - log_kl(curve[1])) / (curve[1].bits - curve[0].bits));
    lowest += rise * (curve.front().bits - bits);
  }
  for (size_t i = 1; i < curve.size() && curve[i - 1].bits < bits; ++i) {
    const double share =
        std::min(1.0, (bits - curve[i - 1].bits) / (curve[i].bits - curve[i - 1].bits));
    const double here = log_kl(curve[i - 1]) * (1 - share) + log_kl(curve[i]) * share;
    lowest = std::min(lowest, here);
  }
  return std::exp(std::min(lowest, kLargestLogKl));
}

double Predictor::RightGuesses(double draft_bits, double target_bits) const {
  const double apart = std::max(0.0, ExpectedKl(0, draft_bits) - ExpectedKl(0, target_bits));
  return std::clamp(1 - parts_.wrong_scale * std::pow(apart, parts_.wrong_power), 0.0, 1.0);
}

double Predictor::Percentile(double harm) const {
  const auto& q = parts_.quantiles;
  if (!(harm > q.front())) return 0;
  if (harm >= q.back()) return 1;
  const auto above = std::upper_bound(q.begin(), q.end(), harm);
  const auto index = static_cast<double>(above - q.begin() - 1);
  const double low = *(above - 1), share = (harm - low) / (*above - low);
  return (index + share) / static_cast<double>(q.size() - 1);
}

}  // namespace lift::router
