// How full a queue is, without its jitter.
#pragma once

namespace lift::router {

// A moving average that rises within a second and falls within ten: precision yields to load at
// once and returns when the load has really gone, so that it does not swing with every burst.
class PressureGauge {
 public:
  // fraction: of the queue that is in use now. seconds: since the last call. Returns the pressure,
  // between what it was and `fraction`.
  double Update(double fraction, double seconds);
  double value() const { return value_; }

 private:
  double value_ = 0;
};

}  // namespace lift::router
