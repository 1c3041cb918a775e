#include "kernels/base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/sha256.h"

namespace lift {
namespace {

// Closes on every path but the last, where the map takes it over.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  int Take() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

absl::Status FromErrno(const std::string& path, const char* what, int error) {
  const std::string message = absl::StrCat("cannot ", what, " ", path, ": ", std::strerror(error));
  if (error == ENOENT || error == ENOTDIR) return absl::NotFoundError(message);
  if (error == EACCES || error == EPERM) return absl::PermissionDeniedError(message);
  if (error == ENOMEM || error == EMFILE || error == ENFILE) {
    return absl::ResourceExhaustedError(message);
  }
  return absl::InvalidArgumentError(message);
}

}  // namespace

absl::StatusOr<std::shared_ptr<const MappedFile>> MappedFile::Open(const std::string& path) {
  // O_NONBLOCK: opening a FIFO by mistake must not hang; it has no effect on regular files.
  Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) return FromErrno(path, "open", errno);
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) return FromErrno(path, "stat", errno);
  if (S_ISDIR(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is a directory; a file is expected"));
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file"));
  }
  if (info.st_size == 0) return absl::InvalidArgumentError(absl::StrCat(path, " is empty"));
  const size_t size = static_cast<size_t>(info.st_size);
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.get(), 0);
  if (data == MAP_FAILED) return FromErrno(path, "map", errno);
  ::madvise(data, size, MADV_HUGEPAGE);  // helps where the kernel keeps files in huge pages
  return std::shared_ptr<const MappedFile>(
      new MappedFile(path, file.Take(), static_cast<const std::byte*>(data), size));
}

MappedFile::~MappedFile() {
  ::munmap(const_cast<std::byte*>(data_), size_);
  ::close(fd_);
}

void LeaveResidentSet(std::span<const std::byte> mapped) {
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto first = reinterpret_cast<uintptr_t>(mapped.data());
  const uintptr_t begin = (first + page - 1) / page * page;
  const uintptr_t end = (first + mapped.size()) / page * page;
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

void HashMapped(std::span<const std::byte> mapped, Sha256& sha) {
  constexpr size_t kPart = size_t{64} << 20;
  for (size_t at = 0; at < mapped.size(); at += kPart) {
    const auto part = mapped.subspan(at, std::min(kPart, mapped.size() - at));
    sha.Update(part);
    LeaveResidentSet(part);
  }
}

void MappedFile::Release(std::span<const std::byte> part) const {
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const auto offset = static_cast<size_t>(part.data() - data_);
  const size_t begin = (offset + page - 1) / page * page;
  const size_t end = (offset + part.size()) / page * page;
  if (begin >= end) return;
  ::madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_DONTNEED);
  ::posix_fadvise(fd_, static_cast<off_t>(begin), static_cast<off_t>(end - begin),
                  POSIX_FADV_DONTNEED);
}

void MappedFile::Prefetch(std::span<const std::byte> part) const {
  if (part.empty()) return;
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const auto offset = static_cast<size_t>(part.data() - data_);
  const size_t begin = offset / page * page, end = offset + part.size();
  ::madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_WILLNEED);
#if defined(MADV_POPULATE_READ)
  // Maps many pages in one call and waits for them.
  if (::madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_POPULATE_READ) == 0)
    return;
#endif
  // WILLNEED only starts the reading; touching each page waits for it.
  volatile std::byte sink{};
  for (size_t at = begin; at < end; at += page) sink = data_[at];
  (void)sink;
}

}  // namespace lift
