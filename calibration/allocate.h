// The lambda of every tensor: one global order of planes, best first, of which every budget takes a
// prefix.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/format/lifted_file.h"

namespace lift {

// What allocation knows of one lifted tensor.
struct TensorCost {
  std::string name;
  std::vector<uint64_t> stage_bytes;  // [stages]
  std::vector<double> error;  // [stages + 1], relative weighted error; error[0] = 1, falling
  double sensitivity = 0;     // nats of KL per unit of relative error
};

// Stage 0 of every tensor first (a variant needs all of them), in the order given; then always the
// stage that lowers the predicted KL most per byte among those whose predecessors are in. A later
// stage with a better ratio than its predecessor lifts the predecessor: a run of stages competes
// with its average.
std::vector<PlaneUnit> GlobalPlaneOrder(std::span<const TensorCost> tensors);

// Predicted KL when the first `plane_bytes` bytes of the order are read (linear inside a unit).
double PredictedKl(std::span<const TensorCost> tensors, std::span<const PlaneUnit> order,
                   uint64_t plane_bytes);

// Stage sizes in bits for the precisions asked for, e.g. {2, 2.5, 3, 4, 6, 8} -> {2, 1, 1, 2, 2}:
// steps of two bits, since every boundary costs a little quality, and of one where a variant up to
// six bits would lie inside. Up to six bits the chain is a bit longer than the finest variant, so
// that it too can give some tensors more than others.
std::vector<int> ChainForBits(std::vector<double> bits_per_weight);

}  // namespace lift
