// Perplexity and KL of every variant of a lifted file against its source, for the calibration
// report.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "calibration/calibrator.h"
#include "kernels/backend.h"
#include "kernels/base/thread_pool.h"
#include "server/tokenizer/tokenizer.h"

namespace lift {

struct MeasureRequest {
  std::string lifted_path, reference_path;
  std::string text_path;  // empty: use `tokens`
  const std::vector<int32_t>& tokens;
  std::span<const CalibrationSource> sources;  // those the user tells apart get a report each
  int64_t context, max_tokens;
  bool show_progress;
};

struct Measurement {
  std::vector<double> kl, perplexity;  // [variants]
  ReferenceRow reference;
  std::vector<SourceReport> sources;  // on their own held-out text
  int64_t tokens = 0;
  std::vector<int32_t> text;  // what was measured on
};

absl::StatusOr<Measurement> MeasureVariants(const MeasureRequest& request,
                                            const Tokenizer& tokenizer, Backend& backend,
                                            ThreadPool& pool);

}  // namespace lift
