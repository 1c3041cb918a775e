#include "calibration/router/boost.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

namespace lift {
namespace {

using router::FeatureVector;
using router::kFeatureCount;
using router::Predictor;
using Tree = Predictor::Tree;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Split {
  double gain = 0;
  int feature = -1;
  double threshold = 0;
  bool unknown_is_low = false;
  double low = 0, high = 0;  // values of the children
};

// Rows of a node and the range its predictions must keep to (monotone features above it).
struct Part {
  std::vector<uint32_t> rows;
  double least = -kInfinity, most = kInfinity;
};

struct Sum {
  double total = 0;
  int64_t rows = 0;
  void Add(double x) { total += x, ++rows; }
};

class Grower {
 public:
  Grower(std::span<const FeatureVector> x, const BoostOptions& options)
      : x_(x), options_(options), residual_(x.size()), random_(options.seed) {}

  std::vector<double>& residual() { return residual_; }

  Tree Grow(std::array<double, kFeatureCount>& gain) {
    Tree tree;
    Part part;
    part.rows = Drawn(x_.size(), options_.rows_share);
    looks_at_ = 0;
    for (const uint32_t f : Drawn(kFeatureCount, options_.features_share)) {
      looks_at_ |= uint64_t{1} << f & ~options_.unused;
    }
    tree.emplace_back();
    GrowNode(tree, 0, std::move(part), options_.depth, gain);
    return tree;
  }

 private:
  // A share of [0, count), at least one, without replacement.
  std::vector<uint32_t> Drawn(size_t count, double share) {
    std::vector<uint32_t> drawn(count);
    std::iota(drawn.begin(), drawn.end(), 0);
    const auto kept = std::clamp<size_t>(
        static_cast<size_t>(std::lround(share * static_cast<double>(count))), 1, count);
    for (size_t i = 0; i < kept; ++i) std::swap(drawn[i], drawn[i + random_() % (count - i)]);
    drawn.resize(kept);
    return drawn;
  }

  double Value(const Sum& sum, const Part& part) const {
    const double value = sum.total / (static_cast<double>(sum.rows) + options_.shrink);
    return std::clamp(value, part.least, part.most);
  }
  // How much squared error a leaf of this value takes away.
  double Gain(const Sum& sum, double value) const {
    const double rows = static_cast<double>(sum.rows) + options_.shrink;
    return 2 * value * sum.total - value * value * rows;
  }

  void GrowNode(Tree& tree, size_t at, Part part, int depth,
                std::array<double, kFeatureCount>& gain) {
    Sum sum;
    for (const uint32_t row : part.rows) sum.Add(residual_[row]);
    const double value = Value(sum, part);
    Split best;
    if (depth > 0) best = BestSplit(part, Gain(sum, value));
    if (best.feature < 0) {
      tree[at].value = options_.rate * value;
      return;
    }
    const auto feature = static_cast<size_t>(best.feature);
    gain[feature] += best.gain;
    Part low{{}, part.least, part.most}, high{{}, part.least, part.most};
    // Children of a monotone split keep to their side of the middle for good.
    const double middle = (best.low + best.high) / 2;
    if (options_.monotone[feature] > 0) low.most = middle, high.least = middle;
    if (options_.monotone[feature] < 0) low.least = middle, high.most = middle;
    for (const uint32_t row : part.rows) {
      const double v = x_[row][feature];
      const bool is_low = std::isnan(v) ? best.unknown_is_low : v <= best.threshold;
      (is_low ? low : high).rows.push_back(row);
    }
    const auto first = static_cast<int>(tree.size());
    tree[at].feature = best.feature;
    tree[at].threshold = best.threshold;
    tree[at].unknown_is_low = best.unknown_is_low;
    tree[at].low = first, tree[at].high = first + 1;
    tree.resize(tree.size() + 2);
    GrowNode(tree, static_cast<size_t>(first), std::move(low), depth - 1, gain);
    GrowNode(tree, static_cast<size_t>(first) + 1, std::move(high), depth - 1, gain);
  }

  Split BestSplit(const Part& part, double unsplit) {
    Split best;
    best.gain = 1e-12;
    for (size_t f = 0; f < kFeatureCount; ++f) {
      if ((looks_at_ >> f & 1) != 0) TryFeature(part, static_cast<int>(f), unsplit, best);
    }
    return best;
  }

  void TryFeature(const Part& part, int feature, double unsplit, Split& best) {
    const auto f = static_cast<size_t>(feature);
    sorted_.clear();
    Sum unknown, known;
    for (const uint32_t row : part.rows) {
      const double v = x_[row][f];
      if (std::isnan(v)) {
        unknown.Add(residual_[row]);
      } else {
        sorted_.push_back({v, row});
        known.Add(residual_[row]);
      }
    }
    std::sort(sorted_.begin(), sorted_.end());
    Sum low;
    for (size_t i = 0; i + 1 < sorted_.size(); ++i) {
      low.Add(residual_[sorted_[i].second]);
      if (sorted_[i].first == sorted_[i + 1].first) continue;
      const Sum high{known.total - low.total, known.rows - low.rows};
      const double threshold = (sorted_[i].first + sorted_[i + 1].first) / 2;
      for (const bool unknown_is_low : {true, false}) {
        // What training never lacked goes where most rows went.
        if (unknown.rows == 0 && unknown_is_low != (low.rows >= high.rows)) continue;
        const Sum a =
            unknown_is_low ? Sum{low.total + unknown.total, low.rows + unknown.rows} : low;
        const Sum b =
            unknown_is_low ? high : Sum{high.total + unknown.total, high.rows + unknown.rows};
        Consider(part, feature, threshold, unknown_is_low, a, b, unsplit, best);
      }
    }
  }

  void Consider(const Part& part, int feature, double threshold, bool unknown_is_low, const Sum& a,
                const Sum& b, double unsplit, Split& best) const {
    if (a.rows < options_.fewest_rows || b.rows < options_.fewest_rows) return;
    const double low = Value(a, part), high = Value(b, part);
    const int direction = options_.monotone[static_cast<size_t>(feature)];
    if (direction * (high - low) < 0) return;
    const double gain = Gain(a, low) + Gain(b, high) - unsplit;
    if (gain > best.gain) best = {gain, feature, threshold, unknown_is_low, low, high};
  }

  std::span<const FeatureVector> x_;
  const BoostOptions& options_;
  std::vector<double> residual_;
  std::vector<std::pair<double, uint32_t>> sorted_;
  std::mt19937_64 random_;
  uint64_t looks_at_ = 0;  // bit i: this tree may split on feature i
};

}  // namespace

BoostedTrees Boost(std::span<const FeatureVector> x, std::span<const double> y,
                   const BoostOptions& options) {
  BoostedTrees model;
  if (x.empty()) return model;
  model.base = std::accumulate(y.begin(), y.end(), 0.0) / static_cast<double>(y.size());
  Grower grower(x, options);
  std::vector<double>& residual = grower.residual();
  for (size_t i = 0; i < y.size(); ++i) residual[i] = y[i] - model.base;
  for (int t = 0; t < options.trees; ++t) {
    model.trees.push_back(grower.Grow(model.gain));
    for (size_t i = 0; i < y.size(); ++i)
      residual[i] -= Predictor::ValueOf(model.trees.back(), x[i]);
  }
  return model;
}

double Predict(const BoostedTrees& model, const FeatureVector& x, size_t trees) {
  double sum = model.base;
  for (size_t t = 0; t < std::min(trees, model.trees.size()); ++t)
    sum += Predictor::ValueOf(model.trees[t], x);
  return sum;
}

}  // namespace lift
