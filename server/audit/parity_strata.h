// The parts of CompareGroups: rows to residuals and cells, cells to a test. parity.cc puts them
// together; tests look at them one by one.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "server/audit/parity.h"

namespace lift {

// Non-decreasing least-squares fit of y, in its order. Equal x (sorted) get equal fits.
std::vector<double> MonotoneFit(std::span<const double> x, std::span<const double> y);

// A row as the test sees it.
struct ParityPoint {
  int group = 0;
  double lambda = 0;
  double residual = 0;  // lambda minus the monotone fit on score of its stratum
};
// Points among which labels may change places: of one stratum, and near in score.
using ParityCell = std::span<const ParityPoint>;
struct ParityCells {
  std::vector<ParityPoint> points;
  std::vector<size_t> ends;  // of each cell in points
  int64_t strata = 0;
  size_t size() const { return ends.size(); }
  ParityCell cell(size_t i) const {
    const size_t begin = i == 0 ? 0 : ends[i - 1];
    return ParityCell(points).subspan(begin, ends[i] - begin);
  }
};
// `rows` are sorted by it; group_of[i] is of rows[i] after that.
ParityCells MakeCells(std::vector<ParityRow>& rows);

// Of one group against all others, over all cells.
struct ParityEffect {
  int64_t compared = 0;
  double sum = 0;       // of residuals less their cell's mean, of the group's points
  double weight = 0;    // difference = sum / weight
  double variance = 0;  // of `sum` when labels change places within cells
  double reference = 0;
  double interval = 0;  // half of the 95 % interval of the difference
};
std::vector<ParityEffect> MeasureEffects(const ParityCells& cells, int groups);

// Two-sided p of each effect: shares of label permutations within cells whose sum is as far from
// zero. 0 permutations: by the normal distribution.
std::vector<double> PermutationTest(const ParityCells& cells, std::span<const ParityEffect> effects,
                                    int64_t permutations);
std::vector<double> HolmAdjusted(std::span<const double> p);

}  // namespace lift
