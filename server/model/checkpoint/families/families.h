// The supported architectures; the table of architecture.cc calls each of these once.
#pragma once

#include <span>

#include "server/model/checkpoint/architecture.h"

namespace lift::families {

Architecture Llama();
Architecture Mistral();
Architecture Mixtral();
Architecture Qwen2();
Architecture Qwen3();
Architecture GptNeoX();
Architecture Mamba();
Architecture Mamba2();
Architecture Starcoder2();
Architecture Gemma3();

// GGUF's names for what Llama and its relatives have.
std::span<const NameRule> LlamaGgufNames();
// q/k/v, o and MLP biases are where the first layer has them.
absl::Status BiasesFromGguf(const GgufFile& file, ModelConfig& config);

}  // namespace lift::families
