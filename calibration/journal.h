// What a calibration has lifted so far, on disk beside its output: one that is killed goes on where
// it was and ends with the same file, and the planes of a large model need not stay in memory.
#pragma once

#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "calibration/lift_tensor.h"
#include "kernels/base/mapped_file.h"
#include "kernels/base/status.h"

namespace lift {

// Records are appended as tensors are lifted: a length, a CRC-32, the tensor. The first record is
// the fingerprint of everything that decides the tensors; a journal of another fingerprint starts
// anew. Not thread-safe.
class Journal {
 public:
  // Opens or creates `path` and checks what it holds; a torn or damaged record and all behind it
  // are cut off. Errors that name the path if it cannot be read or written.
  static absl::StatusOr<std::unique_ptr<Journal>> Open(const std::string& path,
                                                       std::string_view fingerprint);
  ~Journal();
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  size_t size() const { return records_.size(); }
  bool Has(const std::string& name) const { return records_.contains(name); }
  // A tensor it has, read again from the file. INTERNAL if that fails or the record has changed.
  absl::StatusOr<LiftedTensorBits> Read(const std::string& name) const;
  // The planes of each stage of a tensor it has, in `map`, a map of path() made after it was
  // appended.
  std::vector<std::span<const uint8_t>> Planes(const std::string& name,
                                               const MappedFile& map) const;
  const std::string& path() const { return path_; }
  // RESOURCE_EXHAUSTED on a full disk.
  absl::Status Append(const LiftedTensorBits& tensor);
  // The work is done: deletes the file.
  void Remove();

 private:
  Journal(std::string path, std::FILE* file) : path_(std::move(path)), file_(file) {}
  absl::Status Load(std::string_view fingerprint);
  absl::Status AppendRecord(std::string_view payload);
  std::string path_;
  std::FILE* file_;
  struct Record {
    uint64_t offset = 0, length = 0;  // of the payload
    uint32_t sum = 0;
  };
  uint64_t end_ = 0;
  std::map<std::string, Record> records_;
};

// A tensor as bytes and back; nullopt for anything but the whole of what Serialize gave.
std::string Serialize(const LiftedTensorBits& tensor);
std::optional<LiftedTensorBits> Deserialize(std::string_view bytes);

}  // namespace lift
