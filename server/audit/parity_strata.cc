#include "server/audit/parity_strata.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <string_view>
#include <tuple>

namespace lift {
namespace {

constexpr int64_t kCellRows = 25, kMostCells = 10;  // of one stratum
constexpr double kHalf95 = 1.959964;                // normal quantile
constexpr double kTiny = 1e-12;                     // rounding of sums

// splitmix64: the same numbers everywhere, which the standard's shuffles do not promise.
struct Random {
  uint64_t state;
  uint64_t Next() {
    uint64_t z = state += 0x9E3779B97F4A7C15U;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9U;
    z = (z ^ z >> 27) * 0x94D049BB133111EBU;
    return z ^ z >> 31;
  }
  // Below `n`, which is far below 2^32: the bias is beyond notice.
  size_t Below(size_t n) { return static_cast<size_t>((Next() >> 32) * n >> 32); }
};

double MeanOf(ParityCell cell) {
  double sum = 0;
  for (const ParityPoint& point : cell) sum += point.residual;
  return sum / static_cast<double>(cell.size());
}

// What one cell says of each group in it.
struct Share {
  int64_t rows = 0;
  double residuals = 0, lambdas = 0;
};
std::map<int, Share> SharesOf(ParityCell cell) {
  std::map<int, Share> shares;
  for (const ParityPoint& point : cell) {
    Share& share = shares[point.group];
    ++share.rows;
    share.residuals += point.residual;
    share.lambdas += point.lambda;
  }
  return shares;
}

// Variance of a residual within the cell once the group's own offset is taken out.
double SpreadWithin(ParityCell cell, int group, const Share& share, double mean) {
  const auto n = static_cast<double>(cell.size()), own = static_cast<double>(share.rows);
  const double own_mean = share.residuals / own;
  const double other_mean = (mean * n - share.residuals) / (n - own);
  double squares = 0;
  for (const ParityPoint& point : cell) {
    const double d = point.residual - (point.group == group ? own_mean : other_mean);
    squares += d * d;
  }
  return squares / std::max(1.0, n - 2);
}

}  // namespace

std::vector<double> MonotoneFit(std::span<const double> x, std::span<const double> y) {
  struct Block {
    double sum;
    size_t rows;
    double mean() const { return sum / static_cast<double>(rows); }
  };
  std::vector<Block> blocks;
  for (size_t i = 0; i < y.size(); ++i) {
    const bool tie = i > 0 && x[i] == x[i - 1];
    if (tie) {
      blocks.back().sum += y[i], ++blocks.back().rows;
    } else {
      blocks.push_back({y[i], 1});
    }
    // A tie that goes on may still pull its block down or up: blocks join at its end.
    if (i + 1 < y.size() && x[i + 1] == x[i]) continue;
    while (blocks.size() > 1 && blocks[blocks.size() - 2].mean() >= blocks.back().mean()) {
      const Block last = blocks.back();
      blocks.pop_back();
      blocks.back().sum += last.sum, blocks.back().rows += last.rows;
    }
  }
  std::vector<double> fit;
  for (const Block& block : blocks) fit.insert(fit.end(), block.rows, block.mean());
  return fit;
}

ParityCells MakeCells(std::vector<ParityRow>& rows) {
  std::sort(rows.begin(), rows.end(), [](const ParityRow& a, const ParityRow& b) {
    return std::tie(a.stratum, a.score, a.lambda, a.group) <
           std::tie(b.stratum, b.score, b.lambda, b.group);
  });
  std::map<std::string_view, int> groups;
  for (const ParityRow& row : rows) groups[row.group];
  int next = 0;
  for (auto& [name, index] : groups) index = next++;

  ParityCells cells;
  for (size_t begin = 0; begin < rows.size();) {
    size_t end = begin;
    while (end < rows.size() && rows[end].stratum == rows[begin].stratum) ++end;
    std::vector<double> x, y;
    for (size_t i = begin; i < end; ++i) x.push_back(rows[i].score), y.push_back(rows[i].lambda);
    const std::vector<double> fit = MonotoneFit(x, y);
    for (size_t i = begin; i < end; ++i) {
      cells.points.push_back(
          {groups[rows[i].group], rows[i].lambda, y[i - begin] - fit[i - begin]});
    }
    const auto n = static_cast<int64_t>(end - begin);
    const int64_t count = std::clamp<int64_t>(n / kCellRows, 1, kMostCells);
    for (int64_t c = 1; c <= count; ++c) {
      cells.ends.push_back(begin + static_cast<size_t>(n * c / count));
    }
    ++cells.strata;
    begin = end;
  }
  return cells;
}

std::vector<ParityEffect> MeasureEffects(const ParityCells& cells, int groups) {
  std::vector<ParityEffect> effects(static_cast<size_t>(groups));
  std::vector<double> spread(effects.size());
  for (size_t c = 0; c < cells.size(); ++c) {
    const ParityCell cell = cells.cell(c);
    const std::map<int, Share> shares = SharesOf(cell);
    if (shares.size() < 2) continue;
    const auto n = static_cast<double>(cell.size());
    const double mean = MeanOf(cell);
    double squares = 0, lambdas = 0;
    for (const ParityPoint& point : cell) {
      squares += (point.residual - mean) * (point.residual - mean);
      lambdas += point.lambda;
    }
    for (const auto& [group, share] : shares) {
      ParityEffect& effect = effects[static_cast<size_t>(group)];
      const auto own = static_cast<double>(share.rows);
      const double weight = own * (n - own) / n;
      effect.compared += share.rows;
      effect.sum += share.residuals - own * mean;
      effect.weight += weight;
      effect.variance += weight / (n - 1) * squares;
      effect.reference += weight * (lambdas - share.lambdas) / (n - own);
      spread[static_cast<size_t>(group)] += weight * SpreadWithin(cell, group, share, mean);
    }
  }
  for (size_t g = 0; g < effects.size(); ++g) {
    if (effects[g].weight <= 0) continue;
    effects[g].reference /= effects[g].weight;
    effects[g].interval = kHalf95 * std::sqrt(spread[g]) / effects[g].weight;
  }
  return effects;
}

std::vector<double> PermutationTest(const ParityCells& cells, std::span<const ParityEffect> effects,
                                    int64_t permutations) {
  std::vector<double> p(effects.size(), 1.0);
  const auto silent = [&](size_t g) { return effects[g].variance <= kTiny * kTiny; };
  if (permutations == 0) {
    for (size_t g = 0; g < p.size(); ++g) {
      if (silent(g)) continue;
      p[g] = std::erfc(std::abs(effects[g].sum) / std::sqrt(2 * effects[g].variance));
    }
    return p;
  }
  std::vector<double> residuals;
  for (size_t c = 0; c < cells.size(); ++c) {
    const double mean = MeanOf(cells.cell(c));
    for (const ParityPoint& point : cells.cell(c)) residuals.push_back(point.residual - mean);
  }
  std::vector<int64_t> as_far(p.size());
  std::vector<double> sums(p.size());
  Random random{20240607};
  for (int64_t k = 0; k < permutations; ++k) {
    std::fill(sums.begin(), sums.end(), 0.0);
    for (size_t c = 0, at = 0; c < cells.size(); ++c) {
      const size_t end = cells.ends[c];
      for (; at < end; ++at) {  // Fisher and Yates: residuals move, labels stay
        std::swap(residuals[at], residuals[at + random.Below(end - at)]);
        sums[static_cast<size_t>(cells.points[at].group)] += residuals[at];
      }
    }
    for (size_t g = 0; g < p.size(); ++g) {
      if (std::abs(sums[g]) >= std::abs(effects[g].sum) - kTiny) ++as_far[g];
    }
  }
  for (size_t g = 0; g < p.size(); ++g) {
    if (silent(g)) continue;
    p[g] = static_cast<double>(as_far[g] + 1) / static_cast<double>(permutations + 1);
  }
  return p;
}

std::vector<double> HolmAdjusted(std::span<const double> p) {
  std::vector<size_t> order(p.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p[a] < p[b]; });
  std::vector<double> adjusted(p.size());
  double most = 0;
  for (size_t rank = 0; rank < order.size(); ++rank) {
    most = std::max(most, p[order[rank]] * static_cast<double>(order.size() - rank));
    adjusted[order[rank]] = std::min(1.0, most);
  }
  return adjusted;
}

}  // namespace lift
