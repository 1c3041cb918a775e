// Sizes of the products of prompts. No CUDA headers here.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lift::cuda {

// Prompts' rows of one call of cuBLAS; the last call's columns past the end are computed and not
// used. So a matrix meets cuBLAS in the same shapes, whatever the number of rows. A guess until it
// is measured on a device.
inline constexpr int64_t kPromptColumns = 256;
// A matrix of more stored bits a column is read in two halves, where its activations are wide, too.
inline constexpr int kMaxSingleBits = 8;

// Bytes of decoded weights at once (of two buffers): 64 MiB, until a test sets less.
void SetPromptStripBytes(size_t bytes);
size_t PromptStripBytes();

}  // namespace lift::cuda
