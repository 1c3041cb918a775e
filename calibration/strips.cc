#include "calibration/strips.h"

#include <algorithm>

#include "kernels/format/lifted_file.h"

namespace lift {
namespace {

constexpr int64_t kSmallVocabulary = 4096;
constexpr int64_t kStep = 2 * kTileRows;  // kernels work on pairs of row tiles
// Ends of the strips in 64ths of the vocabulary.
constexpr int64_t kEnds[] = {1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64};
// Below this weight (about a bit less than the mean) a first stage of half the bits is tried.
constexpr double kRare = 0.35;

}  // namespace

std::vector<Strip> VocabularyStrips(std::span<const int64_t> counts) {
  const int64_t rows = static_cast<int64_t>(counts.size());
  if (rows < kSmallVocabulary) return {{0, rows, 1.0}};
  double total = 0;
  for (int64_t count : counts) total += static_cast<double>(count) + kUnseen;
  std::vector<Strip> strips;
  int64_t begin = 0;
  for (int64_t end : kEnds) {
    end = end == 64 ? rows : rows * end / 64 / kStep * kStep;
    double uses = 0;
    for (int64_t i = begin; i < end; ++i)
      uses += static_cast<double>(counts[static_cast<size_t>(i)]) + kUnseen;
    const double share = static_cast<double>(end - begin) / static_cast<double>(rows);
    strips.push_back({begin, end - begin, uses / total / share});
    begin = end;
  }
  return strips;
}

std::vector<int> StripChain(const std::vector<int>& chain, double weight) {
  std::vector<int> out = chain;
  if (weight < kRare && out[0] > 1) {
    const int first = out[0] / 2;
    out.insert(out.begin() + 1, out[0] - first);
    out[0] = first;
  }
  return out;
}

}  // namespace lift
