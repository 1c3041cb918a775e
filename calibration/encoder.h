// Finds the signs of a lifting code for rows of weights: a beam search over bit histories in which
// every survivor carries its own Hessian feedback (an intersymbol-interference metric), on circular
// rows.
#pragma once

#include <cstdint>
#include <vector>

#include "calibration/ldl_factor.h"
#include "kernels/base/thread_pool.h"
#include "kernels/format/lifted_file.h"

namespace lift {

struct EncoderOptions {
  int beam = 64;   // survivors per column: 16, 32, 64, 128 or 256
  int block = 16;  // columns between commitments (a multiple of 4)
  int lag = 16;    // columns a decision waits at least (a multiple of block); block + lag <= 64
  int seam = 48;   // columns searched again at the row start once the row's end, its circular
                   // history, is known; 0 = never
  // LiftTensor: rows with an error above this many times a stage's rms error are searched again
  // with twice the beam; 0 = never.
  double second_look = 0;
  enum class Isa {
    kAuto,
    kPortable,
    kAvx2,
    kAvx512
  } isa = Isa::kAuto;  // the results are equal to the bit
};

// What the encoder needs of one layer input's Hessian at one damping. Shared by every tensor and
// code of that input.
class EncoderMetric {
 public:
  // hessian: [n, n] row-major, columns >= live are padding. n is a multiple of kTileColumns.
  // start: the circular rows are searched from this column on (> 0: no padding).
  EncoderMetric(const std::vector<float>& hessian, int64_t n, int64_t live, double damping,
                int64_t seam, Backend& backend, ThreadPool& pool, int64_t start = 0);

  int64_t n() const { return factor_.n; }
  int64_t live() const { return live_; }
  int64_t start() const { return start_; }
  // Mean square of a reconstruction's error over that of the errors the search sees, which include
  // the feedback of earlier columns: what noise shaping costs.
  double spread() const { return spread_; }
  const LdlFactor& factor() const { return factor_; }
  // The leading block that the seam search works on: [seam_n] columns, decided given all later
  // errors.
  int64_t seam_n() const { return seam_factor_.n; }
  const LdlFactor& seam_factor() const { return seam_factor_; }
  // shift[a] += sum_b G[a, b] e_b over columns b >= seam_n, where G = H_AA^-1 H_AB.  e: [n] errors;
  // shift: [seam_n].
  void AddSeamShift(const float* e, float* shift) const;

 private:
  int64_t live_, start_;
  double spread_ = 1;
  LdlFactor factor_, seam_factor_;
  std::vector<float> seam_gain_;
};

// Columns after the re-decided ones whose windows still see them: (steps - 1) + 7 at most over
// valid codes.
inline constexpr int64_t kSeamForced = 24;

// Encodes rows [rows, n] of unit-variance targets. bits: [rows, n], the stored bits of each column.
// The reconstruction is ReconstructRow(code, bits) * gain. Deterministic for any thread count and
// ISA.
void EncodeRows(const LiftCode& code, float gain, const EncoderMetric& metric, const float* targets,
                int64_t rows, const EncoderOptions& options, ThreadPool& pool, uint8_t* bits);

// out [rows, n] = gain * code(bits), by table look-ups (ReconstructRow is the definition; equal up
// to float rounding).
void ReconstructRows(const LiftCode& code, float gain, const uint8_t* bits, int64_t rows, int64_t n,
                     ThreadPool& pool, float* out);

}  // namespace lift
