// The sign product on NVIDIA GPUs: y = B u for sign planes B and lifted activations u.
#pragma once

#include <cstdint>

#include "kernels/cuda/command_queue.h"
#include "kernels/cuda/lifted_tables.h"

namespace lift::cuda {

// Every stage of every matrix of the set, in one launch; planes are read once for each eight
// columns of activations. variants: [tokens] without kPrefillRow, device memory. `tiles`: row tiles
// of all products, whose first_tile count up.
void QueueSignGemm(CommandQueue& queue, const ProductSet& set, const uint8_t* variants,
                   int64_t tokens, int64_t tiles);

}  // namespace lift::cuda
