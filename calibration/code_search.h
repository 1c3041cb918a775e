// Finds lifting codes: taps and parity masks whose beam search leaves little error on a Gaussian
// source.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "calibration/encoder.h"
#include "kernels/base/thread_pool.h"
#include "kernels/format/lifted_file.h"

namespace lift {

// Mean squared error of `code` on `rows` seeded unit-Gaussian rows of 1024 columns, nothing
// weighted.
double GaussianError(const LiftCode& code, int64_t rows, const EncoderOptions& options,
                     uint64_t seed, ThreadPool& pool);

// One stage of a chain on a source: what is left of `targets` (unit variance, [rows, n]) is written
// back to it; returns its mean square. scale: table scale over the targets' deviation.
double EncodeStage(const LiftCode& code, double scale, int64_t rows, int64_t n,
                   const EncoderOptions& options, ThreadPool& pool, std::vector<float>& targets);

// Refits the taps to the signs that the search chose for fresh samples, `rounds` times; returns the
// last round's error (before its refit).
double TrainTaps(LiftCode& code, int rounds, int64_t rows, const EncoderOptions& options,
                 uint64_t seed, ThreadPool& pool);

struct CodeSearchOptions {
  int stored = 2, derived = 1, steps = 9;
  uint64_t seed = 1;
  double seconds = 60;
  int64_t candidates = int64_t{1} << 62;  // stop after so many even if time is left
  int beam = 64;                          // of the screening rounds
  int final_beam = 256;                   // of the last rounds and the verdict
  const LiftCode* start = nullptr;        // mutate this one instead of starting from random tables
};

// Random restarts (or mutations of `start` and of the best so far) until the time is over; `found`
// is told every improvement with its error on samples that no training round saw. The candidates
// depend on the seed alone; how many are tried depends on the time.
LiftCode SearchCodes(const CodeSearchOptions& options, ThreadPool& pool,
                     const std::function<void(const LiftCode&, double)>& found);

}  // namespace lift
