// Rows of a lifted tensor decoded to floats: embeddings.
#pragma once

#include <cstdint>

#include "kernels/cuda/command_queue.h"
#include "kernels/cuda/lifted_tables.h"

namespace lift::cuda {

// Floats of a block's row memory.
int64_t LiftedRowFloats(const ProductSet& set, const RotationView& rotation);

// Row rows[i] of the set's one product at variants[i], in the model's own basis, to row places[i]
// of out [*, cols]. All three: [count], device memory. scratch: null, or count * LiftedRowFloats()
// floats where they exceed `shared_limit` bytes.
void QueueLiftedRows(CommandQueue& queue, const ProductSet& set, const RotationView& rotation,
                     const int32_t* rows, const int32_t* places, const uint8_t* variants,
                     int64_t count, float* scratch, size_t shared_limit, float* out);

}  // namespace lift::cuda
