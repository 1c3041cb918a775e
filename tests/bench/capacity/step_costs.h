// What a step of the engine costs, from what lift-bench measured.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace lift::bench {

// Piecewise linear between measured points; a step costs the decoding of its batch plus the reading
// of its prompt tokens.
class StepCosts {
 public:
  struct Point {
    double at = 0;       // sequences in the batch, or prompt tokens read together
    double seconds = 0;  // of the whole step
  };
  // Points by rising `at`, which is positive; at least one each.
  StepCosts(std::vector<Point> decode, std::vector<Point> prefill)
      : decode_(std::move(decode)), prefill_(std::move(prefill)) {}

  // From the JSON of `lift-bench --json`: decode points of `variant` at the measured context
  // nearest to `context` from above (the largest, if all are shorter), and all prefill points.
  // INVALID_ARGUMENT naming what is missing.
  static absl::StatusOr<StepCosts> FromBench(const std::string& json, const std::string& variant,
                                             int64_t context);

  // Seconds of a step that decodes `batch` sequences and reads `prompt_tokens`.
  double Seconds(int64_t batch, int64_t prompt_tokens) const;
  int64_t largest_batch() const { return static_cast<int64_t>(decode_.back().at); }

 private:
  std::vector<Point> decode_, prefill_;
};

}  // namespace lift::bench
