// Lifted models of well-known shapes with random planes: as fast or slow as a calibrated model, and
// made in seconds.
#pragma once

#include <string>
#include <vector>

#include "kernels/base/status.h"
#include "server/model/model_config.h"

namespace lift::bench {

struct SyntheticSpec {
  std::string shape;         // "llama-1b", "mixtral-8x7b", ...
  ModelConfig config;        // of that shape
  std::vector<double> bits;  // ascending; one variant each, all prefixes of the largest
};

// Parses "SHAPE:BITS[,BITS...]", e.g. "llama-1b:2,2.5,4". INVALID_ARGUMENT for anything else.
absl::StatusOr<SyntheticSpec> ParseSynthetic(const std::string& text);

// Writes the model to `path`: stages of two bits (and one of the rest), with the calibrator's own
// codes (`parity`) or its plain ones. Needs memory for the planes.
absl::Status WriteSynthetic(const SyntheticSpec& spec, bool parity, const std::string& path);

}  // namespace lift::bench
