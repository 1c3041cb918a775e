// The kernels alone, on random planes and weights that do not fit the caches.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_backend.h"

namespace lift::bench {

struct LiftedPoint {
  int stored = 0, derived = 0;
  int64_t tokens = 0;
  double seconds = 0;       // of one matrix
  double lift_seconds = 0;  // of rotating, lifting and quantizing its input
  double plane_bytes_per_second = 0;
  double bandwidth_fraction = 0;        // of the read loop
  double multiply_adds_per_second = 0;  // sign x int8, derived streams counted
};

struct DensePoint {
  int64_t tokens = 0;
  double seconds = 0;
  double flops = 0;  // per second
};

struct AttentionPoint {
  std::string format;  // of the state
  int64_t tokens = 0, context = 0;
  double seconds = 0;
  double bandwidth_fraction = 0;  // state bytes a second / read loop
};

struct KernelReport {
  std::vector<LiftedPoint> lifted;
  std::vector<DensePoint> dense;
  std::vector<AttentionPoint> attention;
};

// Multiply-adds a second of the sign product on planes that stay in the cache, the best of several
// counts of tokens; seconds: spent on each.
double PeakMultiplyAdds(Backend& backend, double seconds);

// rows x cols: the shape of the layer; seconds: spent on each point.
KernelReport BenchKernels(Backend& backend, double read_bandwidth, int64_t rows, int64_t cols,
                          const std::vector<int64_t>& tokens, double seconds);

}  // namespace lift::bench
