// A file that appears under its name only when it is complete.
#pragma once

#include <fstream>
#include <span>
#include <string>
#include <string_view>

#include "kernels/base/status.h"

namespace lift {

// The folder of an export, made if it is not there. INVALID_ARGUMENT if it cannot be made or
// already holds `file`.
absl::Status MakeExportFolder(const std::string& folder, const std::string& file);

class OutputFile {
 public:
  explicit OutputFile(std::string path) : path_(std::move(path)), out_(path_ + ".tmp", kMode) {}
  ~OutputFile();  // removes what was not finished
  void Write(std::string_view bytes) {
    out_.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
  void Write(std::span<const float> values) {
    Write(std::string_view(reinterpret_cast<const char*>(values.data()), values.size_bytes()));
  }
  // Renames it into place. INTERNAL if anything could not be written.
  absl::Status Finish();

 private:
  static constexpr auto kMode = std::ios::binary | std::ios::trunc;
  std::string path_;
  std::ofstream out_;
  bool finished_ = false;
};

}  // namespace lift
