// Recurrent layers on the GPU: Mamba's convolution and scan, as kernels/backend.h defines them,
// with the CPU's layout of states. Pointers, those of the layers too, are device memory; sequences
// are staged. No two sequences of a call share a block. Queued, not waited for.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/backend.h"
#include "kernels/cuda/command_queue.h"

namespace lift::cuda {

// `out` does not overlap x.
void QueueCausalConv(CommandQueue& queue, const ConvLayer& layer,
                     std::span<const RecurrentSequence> sequences, float* states, const float* x,
                     int64_t pitch, float* out);

void QueueSelectiveScan(CommandQueue& queue, const ScanLayer& layer,
                        std::span<const RecurrentSequence> sequences, float* states,
                        const ScanInputs& in, float* out);

}  // namespace lift::cuda
