// Small lifted files with random planes, for tests of the format, the weights and the graph.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "kernels/base/float16.h"
#include "kernels/format/lifted_file.h"

namespace lift::testing {

// A code with `stored` plain and `derived` parity streams over `steps` steps; taps decay from 1.
inline LiftCode RandomCode(std::string name, int stored, int derived, int steps,
                           std::mt19937& random) {
  LiftCode code;
  code.name = std::move(name);
  code.stored = stored, code.derived = derived, code.steps = steps;
  std::normal_distribution<float> normal;
  for (int i = 0; i < steps * code.streams(); ++i) {
    code.taps.push_back(normal(random) * 0.5f / static_cast<float>(1 + i / code.streams()));
  }
  for (int k = 0; k < derived; ++k) {  // this bit, the next stored stream's two steps back
    code.masks.push_back(uint64_t{1} | uint64_t{1} << (2 * code.streams() + k % stored));
  }
  return code;
}

// Planes as the format wants them: rows past `rows` are zeros.
inline std::vector<uint8_t> RandomPlanes(int64_t rows, int64_t cols, int stored,
                                         std::mt19937& random) {
  std::vector<uint8_t> planes;
  for (int64_t tile = 0; tile < PaddedRows(rows) / kTileRows; ++tile) {
    for (int64_t i = 0; i < PaddedColumns(cols) / kTileColumns * stored * kTileRows; ++i) {
      const bool padding = tile * kTileRows + i % kTileRows >= rows;
      const uint32_t word = padding ? 0 : static_cast<uint32_t>(random());
      for (int b = 0; b < 4; ++b) planes.push_back(static_cast<uint8_t>(word >> (8 * b)));
    }
  }
  return planes;
}

// Adds a tensor with one stage per entry of `codes` (pairs of code index and its stored streams),
// gains shrinking.
inline int AddRandomTensor(LiftedFileWriter& writer, const std::string& name, int64_t rows,
                           int64_t cols, RotationSpec rotation,
                           const std::vector<std::pair<int, int>>& codes, std::mt19937& random,
                           float scale = 0.1f,
                           std::optional<DenseMatrixView> source = std::nullopt) {
  std::vector<uint16_t> scales;
  for (int64_t r = 0; r < rows; ++r) {
    scales.push_back(FloatToHalf(scale * (0.5f + static_cast<float>(random() % 1000) / 1000.f)));
  }
  std::vector<LiftedFileWriter::StageData> stages;
  float gain = 1;
  for (const auto& [code, stored] : codes) {
    stages.push_back({code, gain, RandomPlanes(rows, cols, stored, random)});
    gain *= 0.3f;
  }
  return writer.AddTensor(name, rows, cols, rotation, std::move(scales), std::move(stages), source);
}

}  // namespace lift::testing
