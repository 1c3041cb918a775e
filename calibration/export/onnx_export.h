// A variant as an ONNX model of standard ops with float32 weights.
#pragma once

#include <string>

#include "kernels/backend.h"
#include "server/model/weights.h"

namespace lift {

// Writes FOLDER/model.onnx and FOLDER/model.onnx.data: input_ids int64 [batch, sequence] -> logits
// float32 [batch, sequence, vocab], whole sequences without a cache. Memory: one matrix. Experts
// are all computed and weighted. INVALID_ARGUMENT if the folder holds a model already,
// UNIMPLEMENTED for recurrent models.
absl::Status ExportOnnx(const Weights& weights, int variant, Backend& backend,
                        const std::string& folder);

}  // namespace lift
