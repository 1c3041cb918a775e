// How much KL of the output each tensor's error costs, from forward passes alone.
#pragma once

#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/base/thread_pool.h"
#include "server/model/transformer.h"

namespace lift {

struct ProbedTensor {
  std::string name;
  int64_t layer = -1;  // -1: embedding or head
  int kind = 0;        // position among its layer's tensors
  int64_t rows = 0, cols = 0;
  double error = 0;  // relative weighted error of the perturbed form that `reconstruct` writes
};

struct SensitivityOptions {
  bool per_tensor = false;  // true: one probe per tensor; false: one per layer and per kind,
                            // combined (proportional fitting)
  double blend = 0.3;  // the probe replaces W by W + blend * (reconstruction - W): small enough for
                       // KL to be quadratic
};

// reconstruct(i, out): writes tensor i's coarse reconstruction [rows, cols]. original(i, out): the
// source as float.
using TensorWriter = std::function<void(size_t index, float* out)>;

// KL per unit of relative error for every tensor. `model` runs over `weights` (whose matrices are
// overridden during probes and restored). samples: token sequences, some hundred tokens in all.
// progress(done, total).
std::vector<double> MeasureSensitivities(Transformer& model, Weights& weights, ThreadPool& pool,
                                         std::span<const std::vector<int32_t>> samples,
                                         std::span<const ProbedTensor> tensors,
                                         const TensorWriter& reconstruct,
                                         const TensorWriter& original,
                                         const SensitivityOptions& options,
                                         const std::function<void(int64_t, int64_t)>& progress);

}  // namespace lift
