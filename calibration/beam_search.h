// The beam search proper, written once over a set of vector primitives (beam_search_impl.h) and
// compiled per ISA.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/format/lifted_file.h"

namespace lift {

// Columns that a search looks ahead for far targets.
inline constexpr int kAhead = 7;

// A code prepared for searching. History words hold the last steps' signs, stored and derived,
// newest step in the low bits.
struct SearchCode {
  int stored, streams, branches;  // branches = 2^stored
  uint32_t history_mask;
  int chunks;  // 5-bit look-up chunks that cover the history
  // FIR of the steps before a column and of its own, newest step in that column (the first) and in
  // those that follow it.
  std::vector<float> older;         // [kAhead + 1][chunks][32]
  std::vector<float> newest;        // [kAhead + 1][32], by the step's signs
  std::vector<uint32_t> old_masks;  // [derived]: parity over the history before the step
  std::vector<uint32_t>
      derived_of;  // [branches]: parity of the new stored bits under each mask, bit k = derived k
  std::vector<float> reach;  // [kAhead + 1]: at most what the last so many steps put into a column
  // What an error above `limit` costs more, as a factor of its square: a later stage has no hope
  // of errors beyond its own reach.
  float limit = 0, over = 0;
  float far = 0;  // targets at least this far from 0 are looked ahead for
  // spread: EncoderMetric::spread.
  SearchCode(const LiftCode& code, float gain, double spread = 1);
  // Of the column `later` steps after the one at hand.
  const float* OlderSteps(int later) const {
    return &older[static_cast<size_t>(later * chunks) * 32];
  }
  const float* NewestStep(int later) const { return &newest[static_cast<size_t>(later) * 32]; }
};

// The survivors after the last column: what a search that continues the row needs of them.
struct SearchEnd {
  int lanes = 0, best = 0;
  int32_t history[256];
  float cost[256];  // relative to the best
};

// One row's search. All pointers are borrowed.
struct SearchProblem {
  const SearchCode* code;
  int64_t n;              // columns
  const float* target;    // [n]
  const float* diagonal;  // [n]
  const float* upper;     // U: row s at upper + s * stride
  int64_t stride;
  const SearchEnd* start;  // paths to continue (null: start from many pseudo-random histories)
  int64_t forced_from;     // columns >= this take forced[t] (n = none)
  const uint8_t* forced;
  int beam, block, lag;
};

// Reusable memory of one search; keeps its trace until the next one.
struct SearchScratch {
  std::vector<float> floats;
  std::vector<uint16_t> trace;
  std::vector<float> correction;
  SearchEnd end;
};

// Follows the path that ends in `lane` back through the scratch's trace: bits [n]. Returns the lane
// it started in.
int TraceBack(const SearchScratch& scratch, int64_t n, int beam, int lane, uint8_t* bits);

// Searches rows together: problems that differ only in target, start and forced bits. scratch: one
// for each.
void BeamSearchPortable(std::span<const SearchProblem> problems, std::span<SearchScratch> scratch);
#if defined(LIFT_HAVE_X86_ENCODERS)
void BeamSearchAvx2(std::span<const SearchProblem> problems, std::span<SearchScratch> scratch);
void BeamSearchAvx512(std::span<const SearchProblem> problems, std::span<SearchScratch> scratch);
#endif

}  // namespace lift
