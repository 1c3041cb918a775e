// Writes a NumPy .npy file of float32, row by row.
#pragma once

#include <cstdint>
#include <fstream>
#include <span>
#include <string>

#include "kernels/base/status.h"

namespace lift {

class NpyWriter {
 public:
  // Creates the file for an array [rows, cols].
  static absl::StatusOr<NpyWriter> Create(const std::string& path, int64_t rows, int64_t cols);
  absl::Status Append(std::span<const float> values);
  // INTERNAL if anything could not be written or the count is not rows * cols.
  absl::Status Close();

 private:
  NpyWriter(std::string path, int64_t values)
      : path_(std::move(path)), left_(values), out_(path_, std::ios::binary) {}
  std::string path_;
  int64_t left_;
  std::ofstream out_;
};

}  // namespace lift
