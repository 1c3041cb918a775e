// A variant as a Hugging Face folder of float32 weights.
#pragma once

#include <string>

#include "kernels/backend.h"
#include "server/model/weights.h"

namespace lift {

// Writes FOLDER/config.json and FOLDER/model.safetensors (as *.tmp first, renamed when complete);
// the folder is made if it is not there. Memory: one row. INVALID_ARGUMENT if the folder holds a
// model already, UNIMPLEMENTED if the format cannot say what the model does.
absl::Status ExportSafetensors(const Weights& weights, int variant, Backend& backend,
                               const std::string& folder);

}  // namespace lift
