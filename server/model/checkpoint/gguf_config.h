// Metadata and tensor names of a GGUF file -> ModelConfig and canonical tensors.
#pragma once

#include <string>

#include "kernels/base/status.h"
#include "server/model/checkpoint/architecture.h"
#include "server/model/checkpoint/gguf.h"
#include "server/model/model_config.h"

namespace lift {

// UNIMPLEMENTED names what is not supported, INVALID_ARGUMENT what is wrong. The result is valid
// (ModelConfig::Validate).
absl::StatusOr<ModelConfig> ConfigFromGguf(const GgufFile& file);

// Every tensor under its canonical name, or under its own where it has none; fused ones split.
absl::StatusOr<StoredTensors> CanonicalTensors(const GgufFile& file, const ModelConfig& config);

}  // namespace lift
