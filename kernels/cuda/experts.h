// Mixtures of experts on the GPU: rows are sorted by the experts that they chose, and each expert's
// planes meet all of its rows in one launch for all experts.
#pragma once

#include <cstdint>

#include "kernels/cuda/command_queue.h"
#include "kernels/cuda/lifted_tables.h"

namespace lift::cuda {

// A pair is a row with one of its experts. Pairs lie sorted by expert, then by row.
struct ExpertPairs {
  int32_t* first;        // [experts + 1] first pair of an expert
  int32_t* expert;       // [pairs]
  int32_t* row;          // [pairs]
  uint8_t* variant;      // [pairs]
  float* weight;         // [pairs]
  int32_t* of_row;       // [rows][per_row] a row's pairs, by expert
  int32_t* touched;      // [experts] 1 + the finest variant that chose it
  int32_t* choice;       // [rows][per_row] experts, best first; only for the sorting itself
  float* choice_weight;  // [rows][per_row]
  int64_t rows;
  int32_t experts, per_row;
};

// Chooses and sorts; scores: [rows, experts], variants: [rows].
void QueueRoute(CommandQueue& queue, const ExpertPairs& pairs, const float* scores,
                const uint8_t* variants);

// Lifts a row of x for every pair at its expert's site: row `pairs.row` where `gather`, else the
// pair's own. sites: [experts] in device memory, with `slots` slots at most and rows of
// `row_floats` floats. scratch as QueueLift's, for pairs * slots blocks.
void QueueLiftExperts(CommandQueue& queue, const SiteTable* sites, int32_t slots,
                      int64_t row_floats, const ExpertPairs& pairs, const float* x, bool gather,
                      int32_t parts, float* scratch, size_t shared_limit);

// The sign products of every expert's set with its pairs. sets: [experts] in device memory, of
// `tiles` row tiles at most. any_code: some code of theirs is not IsCommon.
void QueueExpertProducts(CommandQueue& queue, const ProductSet* sets, int64_t tiles, bool any_code,
                         const ExpertPairs& pairs, int32_t parts);

// out [rows, dim] = sum of each row's pairs of y [pairs, dim], weighted, by expert.
void QueueCombineExperts(CommandQueue& queue, const ExpertPairs& pairs, const float* y, int64_t dim,
                         float* out);

}  // namespace lift::cuda
