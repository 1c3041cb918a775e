// Bytes for weights -> variants that fit.
#pragma once

#include <cstdint>
#include <vector>

#include "server/model_info.h"

namespace lift {

// How many of the coarsest variants fit into `bytes`; 0 if not even the coarsest.
int VariantsWithin(const std::vector<VariantInfo>& variants, uint64_t bytes);

// Weights resident for the `count` coarsest.
uint64_t BytesOf(const std::vector<VariantInfo>& variants, int count);

}  // namespace lift
