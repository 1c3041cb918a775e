// What the machine's memory gives a loop that only reads: the yardstick of every bandwidth figure.
#pragma once

#include "kernels/backend.h"
#include "kernels/base/thread_pool.h"

namespace lift::bench {

// Best of several passes over a buffer far larger than the caches, on all threads of the pool. Of a
// device with memory of its own: bytes a second that a copy between two of its buffers moves, read
// and written ones.
double ReadBandwidth(ThreadPool& pool);
double ReadBandwidth(Backend& backend, ThreadPool& pool);

// Memory of this process that is in RAM, mapped files included.
uint64_t ResidentBytes();

// Seconds since an arbitrary start.
double Now();

// Runs body (at least twice) until `seconds` have passed; returns the mean seconds of one run, the
// first one, which warms caches, not counted.
template <typename Body>
double MeanSeconds(double seconds, const Body& body) {
  body();
  const double start = Now();
  double now = start;
  int runs = 0;
  for (; runs == 0 || now - start < seconds; now = Now(), ++runs) body();
  return (now - start) / runs;
}

}  // namespace lift::bench
