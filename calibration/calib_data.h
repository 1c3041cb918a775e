// Calibration text: plain text, JSON lines with "text", or chat JSON lines with "messages".
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/base/status.h"
#include "server/tokenizer/tokenizer.h"

namespace lift {

// A text to calibrate on, as "PATH", "NAME=PATH", "PATH:WEIGHT" or "NAME=PATH:WEIGHT". What names
// an existing file is a path as it stands.
struct CalibrationSource {
  std::string name, path;         // name: the path's last part unless given
  std::optional<double> weight;   // > 0; share of the samples relative to the other sources
  bool named = false;             // as opposed to a bare path
  std::vector<int32_t> held_out;  // tokens of it that no sample contains
  int64_t samples = 0, tokens = 0;
};

// INVALID_ARGUMENT for an empty path or name, or a weight that is not positive.
absl::StatusOr<CalibrationSource> ParseCalibrationSource(const std::string& text);

struct CalibrationData {
  std::vector<std::vector<int32_t>> samples;  // each at most `context` tokens
  std::vector<int32_t> held_out;      // tokens of text that no sample contains, for measuring
  std::vector<int64_t> token_counts;  // by id, over all text that is not held out
  std::string warning;                // said to the user when the sample is small
  std::vector<CalibrationSource> sources;
};

struct CalibrationDataOptions {
  int64_t samples = 128;
  int64_t context = 512;
  int64_t held_out_tokens = 8192;
  uint64_t seed = 1;
};

// Reads every source, tokenizes, holds the last tenth of each out (up to held_out_tokens in all)
// and cuts `samples` windows spread evenly, with seeded offsets, over the rest: over all of it, or,
// once a source has a weight (others then have 1), over each source by its share of the weights.
// INVALID_ARGUMENT naming the file and line if nothing usable is in it.
absl::StatusOr<CalibrationData> LoadCalibrationData(const std::vector<std::string>& sources,
                                                    const Tokenizer& tokenizer,
                                                    const CalibrationDataOptions& options);

// Says so if many tokens of a text to be measured on never occur in the calibration text, which
// then says little about it; else empty.
std::string UnlikeWarning(const CalibrationData& data, const std::vector<int32_t>& tokens);

}  // namespace lift
