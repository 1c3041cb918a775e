// The lifted layers of prompts, where many rows share the weights: planes are decoded to fp16 a
// strip of rows at a time, and cuBLAS multiplies. Every pointer is device memory. Queued, not
// waited for.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/command_queue.h"
#include "kernels/cuda/lifted_tables.h"
#include "kernels/cuda/prefill_limits.h"

struct cublasContext;

namespace lift::cuda {

// A matrix of fp16 numbers, row-major, or of the sums of two. `low` may be null.
struct Halves {
  uint16_t *high, *low;
};

// out [count][32 * blocks] = R x[rows[i]] / scale[i], where scale is the power of two that brings
// the row's largest magnitude to 512 or above, and below 1024. A row that is not finite is zeros,
// its scale NaN. scratch: null, or count * PromptRowFloats() floats where those exceed the limit of
// shared memory.
int64_t PromptRowFloats(const RotationView& rotation, int64_t blocks);
void QueueRotatePrompts(CommandQueue& queue, const RotationView& rotation, int64_t blocks,
                        const float* x, const int32_t* rows, int64_t count, float* scratch,
                        size_t shared_limit, const Halves& out, float* scale);

// A stage as it is decoded: the signs of a window of `steps` columns are looked up in runs of
// `bits` signs.
struct ExpandStage {
  const uint8_t* planes;
  int64_t rows;  // leading rows that are read
  CodeTable code;
  float gain;
  int32_t bits, windows;
  int32_t table;  // its tables' place in shared memory: [streams][windows][1 << bits] floats
};
struct ExpandPlan {
  ExpandStage stage[kMaxStageRows];
  int64_t rows;  // of the matrix
  int32_t stages, blocks;
  int32_t table_floats;   // of all stages
  int32_t line, streams;  // words of one row and stream in shared memory; the most of a stage
  int32_t halo;           // words of a line that lie before the columns at hand
};
// Fills in what follows from the stages' planes, rows, codes and gains.
void PlanTables(size_t shared_limit, ExpandPlan& plan);
// out [end - first][32 * blocks] = rows [first, end) in the rotated basis, without their scales.
// `first` is a multiple of 16.
void QueueExpand(CommandQueue& queue, const ExpandPlan& plan, int64_t first, int64_t end,
                 const Halves& out);

// A handle of cuBLAS. Device memory for its own use is the caller's, so that calls can be captured.
class Blas {
 public:
  static constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what Hopper is advised to have
  // Is cuBLAS there at all?
  static bool available();
  Blas();
  ~Blas();
  Blas(const Blas&) = delete;
  Blas& operator=(const Blas&) = delete;
  // sums [kPromptColumns][rows], `pitch` floats apart, = x [kPromptColumns][columns] times the
  // transpose of w [rows][columns]. Where both have low halves, the product of those is left out.
  void QueueProduct(CommandQueue& queue, const Halves& w, const Halves& x, int64_t rows,
                    int64_t columns, void* workspace, float* sums, int64_t pitch);

 private:
  cublasContext* handle_ = nullptr;
};

// y[places[t] * pitch + r] = sums[t * sums_pitch + r] * scale[t] * unit * row_scale[r] for t <
// count, r < rows.
struct PromptOutput {
  const float* sums;
  const float* scale;
  const uint16_t* row_scale;
  const int32_t* places;
  float* y;
  int64_t rows, sums_pitch, pitch;
  float unit;
  uint32_t unused;
};
void QueuePromptOutput(CommandQueue& queue, const PromptOutput& output, int64_t count);

// y[places[t] * pitch + r] = from[t][r] for t < count, r < rows.
void QueueScatterRows(CommandQueue& queue, const float* from, const int32_t* places, int64_t count,
                      int64_t rows, int64_t pitch, float* y);

}  // namespace lift::cuda
