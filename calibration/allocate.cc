#include "calibration/allocate.h"

#include <algorithm>
#include <cmath>
#include <queue>

#include "kernels/base/check.h"

namespace lift {
namespace {

// A run of stages [first, last] of one tensor, taken together.
struct Run {
  int tensor, first, last;
  double ratio;  // predicted KL saved per byte
};

// The best-ratio run that starts at `first`.
Run BestRun(const TensorCost& tensor, int index, int first) {
  Run best{index, first, first, -1};
  double gain = 0, bytes = 0;
  for (int j = first; j < static_cast<int>(tensor.stage_bytes.size()); ++j) {
    gain += tensor.sensitivity *
            (tensor.error[static_cast<size_t>(j)] - tensor.error[static_cast<size_t>(j) + 1]);
    bytes += static_cast<double>(tensor.stage_bytes[static_cast<size_t>(j)]);
    const double ratio = gain / std::max(bytes, 1.0);
    if (j == first || ratio > best.ratio) best = {index, first, j, ratio};
  }
  return best;
}

}  // namespace

std::vector<PlaneUnit> GlobalPlaneOrder(std::span<const TensorCost> tensors) {
  std::vector<PlaneUnit> order;
  const auto worse = [](const Run& a, const Run& b) {
    return a.ratio != b.ratio ? a.ratio < b.ratio
                              : a.tensor > b.tensor;  // ties: lowest tensor first
  };
  std::priority_queue<Run, std::vector<Run>, decltype(worse)> queue(worse);
  for (int i = 0; i < static_cast<int>(tensors.size()); ++i) {
    const TensorCost& tensor = tensors[static_cast<size_t>(i)];
    LIFT_CHECK(!tensor.stage_bytes.empty() && tensor.error.size() == tensor.stage_bytes.size() + 1);
    order.push_back({i, 0});
    if (tensor.stage_bytes.size() > 1) queue.push(BestRun(tensor, i, 1));
  }
  while (!queue.empty()) {
    const Run run = queue.top();
    queue.pop();
    for (int j = run.first; j <= run.last; ++j) order.push_back({run.tensor, j});
    const TensorCost& tensor = tensors[static_cast<size_t>(run.tensor)];
    if (run.last + 1 < static_cast<int>(tensor.stage_bytes.size()))
      queue.push(BestRun(tensor, run.tensor, run.last + 1));
  }
  return order;
}

double PredictedKl(std::span<const TensorCost> tensors, std::span<const PlaneUnit> order,
                   uint64_t plane_bytes) {
  double kl = 0;
  for (const TensorCost& tensor : tensors) kl += tensor.sensitivity;
  uint64_t left = plane_bytes;
  for (const PlaneUnit& unit : order) {
    const TensorCost& tensor = tensors[static_cast<size_t>(unit.tensor)];
    const size_t j = static_cast<size_t>(unit.stage);
    const uint64_t bytes = tensor.stage_bytes[j], take = std::min(left, bytes);
    const double share = bytes > 0 ? static_cast<double>(take) / static_cast<double>(bytes) : 1.0;
    kl -= share * tensor.sensitivity * (tensor.error[j] - tensor.error[j + 1]);
    left -= take;
  }
  return kl;
}

std::vector<int> ChainForBits(std::vector<double> bits) {
  LIFT_CHECK(!bits.empty());
  constexpr double kFineUpTo = 6, kRoomUpTo = 6;
  std::sort(bits.begin(), bits.end());
  const double most = std::ceil(bits.back() - 1e-9);
  std::vector<int> chain = {bits.front() < 2 - 1e-9 ? 1 : 2};
  double reached = chain[0];
  while (reached < most) {
    const bool wanted = std::any_of(bits.begin(), bits.end(), [&](double b) {
      return b > reached + 1e-9 && b <= reached + 1 + 1e-9;
    });
    const bool fine = wanted && reached < kFineUpTo;
    const int step = fine || most - reached < 2 ? 1 : 2;
    chain.push_back(step);
    reached += step;
  }
  if (most <= kRoomUpTo) chain.push_back(1);
  return chain;
}

}  // namespace lift
