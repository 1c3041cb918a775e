// A read-only memory map of a whole file.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "kernels/base/status.h"

namespace lift {

class Sha256;

// Thread-safe after construction (immutable). Errors: NOT_FOUND, PERMISSION_DENIED,
// INVALID_ARGUMENT (a directory, empty).
class MappedFile {
 public:
  static absl::StatusOr<std::shared_ptr<const MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }

  // What a reader of these bytes costs, not what he reads, changes: Release gives the whole pages
  // inside `part` back to the system (the process's resident set falls at once, and the page cache
  // with it unless another process maps them), Prefetch reads them in. `part` lies inside bytes().
  void Release(std::span<const std::byte> part) const;
  void Prefetch(std::span<const std::byte> part) const;

 private:
  MappedFile(std::string path, int fd, const std::byte* data, size_t size)
      : path_(std::move(path)), fd_(fd), data_(data), size_(size) {}
  std::string path_;
  int fd_;  // owned
  const std::byte* data_;
  size_t size_;
};

// Whole pages of `mapped`, which lies in a MappedFile, leave the process's resident set. The page
// cache keeps them, so reading them again costs a page fault and no disk.
void LeaveResidentSet(std::span<const std::byte> mapped);

// Adds `mapped`, which lies in a MappedFile, to `sha`, a part at a time in the resident set.
void HashMapped(std::span<const std::byte> mapped, Sha256& sha);

// Lower-case hex SHA-256 of the bytes.
std::string Sha256Hex(std::span<const std::byte> bytes);

}  // namespace lift
