#include "tests/bench/serve/lengths.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace lift::bench {

absl::StatusOr<LengthDistribution> LengthDistribution::Parse(const std::string& text) {
  LengthDistribution out;
  const size_t colon = text.find(':');
  std::string low = text, high = text;
  if (colon != std::string::npos) {
    low = text.substr(0, colon);
    high = text.substr(colon + 1);
    if (low == "exp") {
      out.kind_ = Kind::kExponential;
      low = high;
    }
  }
  if (!absl::SimpleAtoi(low, &out.low_) || !absl::SimpleAtoi(high, &out.high_) || out.low_ < 1 ||
      out.high_ < out.low_ || out.high_ > 1000000) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\" is no length distribution; write 64, 16:256 or exp:128"));
  }
  return out;
}

int64_t LengthDistribution::Draw(std::mt19937_64& random) const {
  if (kind_ == Kind::kUniform) return std::uniform_int_distribution<int64_t>(low_, high_)(random);
  const double drawn =
      std::exponential_distribution<double>(1.0 / static_cast<double>(low_))(random);
  return std::clamp<int64_t>(std::llround(drawn), 1, 8 * low_);
}

}  // namespace lift::bench
