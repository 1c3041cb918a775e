// Lifted tensors with random planes and their sites, with all memory they borrow.
#pragma once

#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <vector>

#include "kernels/backend.h"
#include "kernels/base/float16.h"
#include "kernels/format/parity_masks.h"

namespace lift {

inline std::vector<float> RandomFloats(int64_t n, uint64_t seed, float scale = 1.0f) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> out(static_cast<size_t>(n));
  for (float& value : out) value = normal(random);
  return out;
}

inline LiftCode RandomCode(int stored, int derived, int steps, uint64_t seed) {
  LiftCode code;
  code.stored = stored;
  code.derived = derived;
  code.steps = steps;
  code.taps = RandomFloats(int64_t{steps} * code.streams(), seed, 0.4f);
  std::mt19937_64 random(seed + 1);
  for (int k = 0; k < derived; ++k) {
    uint64_t mask = 1;  // lag 0 of stream 0, and a few more
    for (int i = 0; i < 5; ++i) {
      const int bit = static_cast<int>(random() % 8) * code.streams() +
                      static_cast<int>(random() % static_cast<uint64_t>(stored));
      if (bit < 64) mask |= uint64_t{1} << bit;
    }
    code.masks.push_back(mask);
  }
  return code;
}

// Owns what a LiftedMatrix and its LiftSite borrow.
struct RandomLifted {
  struct StageSpec {
    int stored, derived, steps, slot;
    bool shipped = false;  // the mask of the code that calibration makes
  };

  RandomLifted(int64_t rows, int64_t cols, const std::vector<StageSpec>& specs, RotationSpec spec,
               uint64_t seed)
      : rotation_spec(spec), rotation(std::make_unique<Rotation>(spec, cols)) {
    matrix.rows = rows;
    matrix.cols = cols;
    matrix.rotation = rotation.get();
    site.cols = cols;
    site.rotation = rotation.get();
    std::mt19937_64 random(seed);
    for (int64_t r = 0; r < PaddedRows(rows); ++r) {
      scales.push_back(FloatToHalf(0.5f + 0.01f * static_cast<float>(random() % 100)));
    }
    matrix.row_scale = scales.data();
    for (const StageSpec& s : specs) {
      const size_t slot = static_cast<size_t>(s.slot);
      if (slot == codes.size())
        codes.push_back(RandomCode(s.stored, s.derived, s.steps, seed + slot));
      if (s.shipped) codes[slot].masks = {kParityMasks[s.stored]};
      const size_t bytes = static_cast<size_t>(PaddedRows(rows) / kTileRows * PaddedColumns(cols) /
                                               kTileColumns * s.stored * kTileBytes);
      planes.emplace_back(bytes / sizeof(PlaneLine));
      for (PlaneLine& line : planes.back()) {
        for (uint64_t& word : line.words) word = random();
      }
      matrix.stages.push_back({&codes[slot], s.slot, 1.0f / static_cast<float>(planes.size()),
                               reinterpret_cast<const std::byte*>(planes.back().data())});
    }
    for (const LiftCode& code : codes) site.codes.push_back(&code);
  }

  // Adds a variant that reads `stage_rows` and quantizes the slots of its first `wide` stages wide.
  void AddVariant(const std::vector<int64_t>& stage_rows, size_t wide) {
    matrix.stage_rows.insert(matrix.stage_rows.end(), stage_rows.begin(), stage_rows.end());
    std::vector<uint8_t> is_wide(codes.size()), is_used(codes.size());
    for (size_t j = 0; j < stage_rows.size(); ++j) {
      const size_t slot = static_cast<size_t>(matrix.stages[j].slot);
      if (stage_rows[j] > 0) is_used[slot] = 1;
      if (stage_rows[j] > 0 && j < wide) is_wide[slot] = 1;
    }
    site.wide.insert(site.wide.end(), is_wide.begin(), is_wide.end());
    site.used.insert(site.used.end(), is_used.begin(), is_used.end());
  }

  struct alignas(64) PlaneLine {
    uint64_t words[8];
  };
  RotationSpec rotation_spec;
  std::unique_ptr<Rotation> rotation;
  std::deque<LiftCode> codes;
  std::deque<std::vector<PlaneLine>> planes;
  std::vector<uint16_t> scales;
  LiftedMatrix matrix;
  LiftSite site;
};

}  // namespace lift
