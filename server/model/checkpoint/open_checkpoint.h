// The two kinds of checkpoint; Checkpoint::Open chooses.
#pragma once

#include <memory>
#include <string>

#include "kernels/base/status.h"
#include "server/model/checkpoint/checkpoint.h"

namespace lift {

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenGgufCheckpoint(const std::string& path);
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenHuggingFaceCheckpoint(const std::string& folder);

// The last part of a path, for a model's name: "models/tiny/" -> "tiny".
std::string LastPathPart(const std::string& path);

}  // namespace lift
