// A ModelConfig as the config.json of a Hugging Face folder: the inverse of hf_config.h.
#pragma once

#include <nlohmann/json.hpp>

#include "kernels/base/status.h"
#include "server/model/model_config.h"

namespace lift {

// What transformers 4 and 5 read alike, for weights in float32. `config` must be valid.
// UNIMPLEMENTED for what a config.json cannot say: frequency factors that a GGUF file listed one by
// one.
absl::StatusOr<nlohmann::json> HuggingFaceConfigJson(const ModelConfig& config);

}  // namespace lift
