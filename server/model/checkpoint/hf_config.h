// config.json of a Hugging Face folder -> ModelConfig.
#pragma once

#include <string>

#include "kernels/base/status.h"
#include "server/model/model_config.h"

namespace lift {

// The texts beside the weights; empty = the file is absent. `source` names the folder in messages.
struct HuggingFaceTexts {
  std::string source;
  std::string config;             // config.json, required
  std::string generation_config;  // generation_config.json: more end-of-text ids
  std::string tokenizer_config;   // tokenizer_config.json: add_bos_token
  std::string tokenizer;          // tokenizer.json: a post-processor that adds BOS
};

// UNIMPLEMENTED names what is not supported, INVALID_ARGUMENT what is wrong. The result is valid
// (ModelConfig::Validate); its name is left empty.
absl::StatusOr<ModelConfig> ConfigFromHuggingFace(const HuggingFaceTexts& texts);

}  // namespace lift
