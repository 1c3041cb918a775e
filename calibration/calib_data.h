// Calibration text: plain text, JSON lines with "text", or chat JSON lines with "messages".
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/base/status.h"
#include "server/tokenizer/tokenizer.h"

namespace lift {

struct CalibrationData {
  std::vector<std::vector<int32_t>> samples;  // each at most `context` tokens
  std::vector<int32_t> held_out;      // tokens of text that no sample contains, for measuring
  std::vector<int64_t> token_counts;  // by id, over all text that is not held out
  std::string warning;                // said to the user when the sample is small
};

struct CalibrationDataOptions {
  int64_t samples = 128;
  int64_t context = 512;
  int64_t held_out_tokens = 8192;
  uint64_t seed = 1;
};

// Reads every path, tokenizes, holds the last tenth of each source out (up to held_out_tokens in
// all) and cuts `samples` windows spread evenly, with seeded offsets, over the rest.
// INVALID_ARGUMENT naming the file and line if nothing usable is in it.
absl::StatusOr<CalibrationData> LoadCalibrationData(const std::vector<std::string>& paths,
                                                    const Tokenizer& tokenizer,
                                                    const CalibrationDataOptions& options);

}  // namespace lift
