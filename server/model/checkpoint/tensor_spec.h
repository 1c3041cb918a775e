// What a config says a checkpoint must hold.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/base/dtype.h"
#include "kernels/base/status.h"
#include "server/model/model_config.h"

namespace lift {

struct TensorSpec {
  std::string name;            // canonical
  std::vector<int64_t> shape;  // [rows, cols] of a matrix, [n] of a norm or bias
};

// Every tensor of a model of this config. The config must be valid.
std::vector<TensorSpec> ModelTensors(const ModelConfig& config);

// A tensor as some file holds it. shape: slowest dimension first.
struct StoredTensor {
  std::string type_name;      // as the file calls it
  std::optional<DType> type;  // absent: cannot be read as weights
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
};

// By canonical name; the bytes are borrowed.
using BoundTensors = std::map<std::string, DenseMatrixView>;

std::optional<DenseMatrixView> FindIn(const BoundTensors& tensors, const std::string& name);
std::vector<std::string> NamesOf(const BoundTensors& tensors);
int64_t BytesOf(const BoundTensors& tensors);

// The tensors that the config asks for, by canonical name: INVALID_ARGUMENT names the first one
// that is missing, has another shape or an unreadable type, or that no part of the config explains
// (biases that would be ignored, other architectures). `ignored` says which leftover names are
// harmless.
absl::StatusOr<BoundTensors> BindTensors(const std::string& source, const ModelConfig& config,
                                         const std::map<std::string, StoredTensor>& stored,
                                         const std::function<bool(const std::string&)>& ignored);

}  // namespace lift
