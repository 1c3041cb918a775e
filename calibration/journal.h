// What a calibration has lifted so far, on disk beside its output, so that one that is killed goes
// on where it was and ends with the same file.
#pragma once

#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "calibration/lift_tensor.h"
#include "kernels/base/status.h"

namespace lift {

// Records are appended as tensors are lifted: a length, a CRC-32, the tensor. The first record is
// the fingerprint of everything that decides the tensors; a journal of another fingerprint starts
// anew. Not thread-safe.
class Journal {
 public:
  // Opens or creates `path` and reads what it holds; a torn or damaged record and all behind it are
  // cut off. Errors that name the path if it cannot be read or written.
  static absl::StatusOr<std::unique_ptr<Journal>> Open(const std::string& path,
                                                       std::string_view fingerprint);
  ~Journal();
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  size_t size() const { return tensors_.size(); }  // tensors not taken yet
  bool Has(const std::string& name) const { return tensors_.contains(name); }
  LiftedTensorBits Take(const std::string& name);  // Has(name)
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
  std::map<std::string, LiftedTensorBits> tensors_;
};

// A tensor as bytes and back; nullopt for anything but the whole of what Serialize gave.
std::string Serialize(const LiftedTensorBits& tensor);
std::optional<LiftedTensorBits> Deserialize(std::string_view bytes);

}  // namespace lift
