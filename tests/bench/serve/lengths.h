// Lengths of prompts and answers.
#pragma once

#include <cstdint>
#include <random>
#include <string>

#include "absl/status/statusor.h"

namespace lift::bench {

// "64", "16:256" (uniform, both included) or "exp:128" (exponential with that mean, at most 8 times
// it); always at least 1.
class LengthDistribution {
 public:
  static absl::StatusOr<LengthDistribution> Parse(const std::string& text);
  int64_t Draw(std::mt19937_64& random) const;

 private:
  enum class Kind { kUniform, kExponential };
  Kind kind_ = Kind::kUniform;
  int64_t low_ = 1, high_ = 1;
};

}  // namespace lift::bench
