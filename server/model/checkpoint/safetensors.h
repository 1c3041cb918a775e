// One safetensors file: a JSON header and the tensors' bytes. Byte diagram in README.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/base/dtype.h"
#include "kernels/base/mapped_file.h"
#include "kernels/base/status.h"

namespace lift {

struct SafetensorsTensor {
  std::string dtype;                 // as in the header: "F32", "I64", ...
  std::optional<DType> type;         // set for the types that weights may have
  std::vector<int64_t> shape;        // row-major, slowest first
  std::span<const std::byte> bytes;  // borrowed
};

// Validated by Open/Parse; afterwards immutable and thread-safe.
class SafetensorsFile {
 public:
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);
  // Borrows `bytes`, which must outlive the result. `name` is for messages.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Parse(std::span<const std::byte> bytes,
                                                                std::string name);

  const std::string& name() const { return name_; }
  std::span<const std::byte> file_bytes() const { return bytes_; }
  const std::map<std::string, SafetensorsTensor>& tensors() const { return tensors_; }

 private:
  SafetensorsFile() = default;
  std::string name_;
  std::shared_ptr<const MappedFile> file_;  // null after Parse
  std::span<const std::byte> bytes_;
  std::map<std::string, SafetensorsTensor> tensors_;
};

}  // namespace lift
