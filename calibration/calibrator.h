// Checkpoint + text -> lifted file: capture, lift, allocate, write, measure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "calibration/calib_data.h"
#include "calibration/encoder.h"
#include "calibration/variant_plan.h"
#include "kernels/base/status.h"
#include "kernels/format/lifted_file.h"

namespace lift {

enum class CalibrationQuality { kFast, kDefault, kBest };

struct CalibrationOptions {
  std::string model_path, out_path;
  std::vector<std::string> calib_paths;
  std::string eval_path;  // measure on this text; empty = the held-out part of the calibration text
  std::vector<VariantRequest> variants;
  CalibrationQuality quality = CalibrationQuality::kDefault;
  CalibrationDataOptions data;
  int64_t eval_tokens = 8192, eval_context = 1024;
  std::vector<int> chain;  // stage sizes; empty = chosen from the variants
  std::optional<int> beam;
  // Each layer is fitted to what the layers before it give when they are read at so many bits
  // (their first stages up to there); 0: to what the source gives.
  int prefix_bits = 0;
  int threads = 0;  // 0 = all
  uint64_t seed = 1;
  bool measure = true;  // fill in KL and perplexity
  bool show_progress = true;
  bool resume = true;  // go on where an interrupted run with the same inputs and output left off
};

struct ReferenceRow {
  std::string name;
  double perplexity = -1;
  uint64_t bytes = 0;
  double bits_per_weight = 0;
};

// How well the variants serve one kind of text they were calibrated on.
struct SourceReport {
  std::string name;
  double weight = 1;
  int64_t samples = 0, tokens = 0;  // tokens: measured on, held out of the source
  std::vector<double> kl;           // [variants]
};

struct CalibrationResult {
  std::vector<LiftedVariant> variants;
  ReferenceRow reference;
  std::string source_sha256, warning;
  std::vector<int> chain;
  double seconds = 0;
  std::vector<SourceReport> sources;  // where sources have names or weights
  int64_t weights = 0, calibration_tokens = 0, eval_tokens = 0;
  std::vector<std::pair<std::string, double>> phases;  // name, seconds
};

// INVALID_ARGUMENT for anything the user can change (model, text, budgets too small: the message
// names the smallest possible).
absl::StatusOr<CalibrationResult> Calibrate(const CalibrationOptions& options);

}  // namespace lift
