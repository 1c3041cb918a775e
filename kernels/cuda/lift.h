// Rotating, lifting and quantizing activations.
#pragma once

#include <cstdint>

#include "kernels/cuda/command_queue.h"
#include "kernels/cuda/lifted_tables.h"

namespace lift::cuda {

// Floats of a block's row memory for a site: the row with its circular tail, and the spare row.
int64_t LiftRowFloats(const SiteTable& site);
// Bytes of dynamic shared memory that hold it, or 0 if it has to be in device memory.
size_t LiftSharedBytes(const SiteTable& site, size_t limit);

// x: [tokens, cols]; variants: [tokens] without kPrefillRow; both device memory. scratch: null, or
// tokens * slots * LiftRowFloats() floats where LiftSharedBytes() is 0.
void QueueLift(CommandQueue& queue, const SiteTable& site, const float* x, int64_t tokens,
               int32_t parts, const uint8_t* variants, float* scratch, size_t shared_limit);

}  // namespace lift::cuda
