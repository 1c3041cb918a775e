#include "router/pressure.h"

#include <algorithm>
#include <cmath>

namespace lift::router {
namespace {

constexpr double kRiseSeconds = 0.5, kFallSeconds = 5;  // time constants
constexpr double kLongestGap = 1;  // one sample says nothing of the time since the one before

}  // namespace

double PressureGauge::Update(double fraction, double seconds) {
  const double scale = fraction > value_ ? kRiseSeconds : kFallSeconds;
  value_ -= (fraction - value_) * std::expm1(-std::clamp(seconds, 0.0, kLongestGap) / scale);
  return value_;
}

}  // namespace lift::router
