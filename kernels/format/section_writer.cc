#include "kernels/format/section_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace lift::format {
namespace {

template <typename T>
void Put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

// Header and section table, padded to 64 bytes; sets each section's offset.
std::string MakeHead(std::vector<Section>& sections) {
  uint64_t end = kHeaderBytes + sections.size() * kSectionEntryBytes;
  std::string table;
  for (Section& section : sections) {
    section.offset = AlignUp(end, SectionAlignment(section.kind));
    end = section.offset + section.bytes;
    Put(table, static_cast<uint32_t>(section.kind));
    Put(table, section.crc);
    Put(table, section.offset);
    Put(table, section.bytes);
    Put(table, uint64_t{0});
  }
  std::string head(kMagic);
  Put(head, kVersion);
  Put(head, static_cast<uint32_t>(kHeaderBytes));
  Put(head, end);
  Put(head, static_cast<uint64_t>(kHeaderBytes));
  Put(head, static_cast<uint32_t>(sections.size()));
  Put(head, Crc32(AsBytes(table)));
  head.resize(kHeaderBytes - 4);
  Put(head, Crc32(AsBytes(head)));
  return head + table;
}

absl::Status IoError(const std::string& what, const std::string& path) {
  const int error = errno;
  const std::string message =
      absl::StrCat("cannot ", what, " '", path, "': ", std::strerror(error));
  return error == ENOSPC || error == EDQUOT ? absl::ResourceExhaustedError(message)
                                            : absl::InternalError(message);
}

// The temporary file: removed unless Commit renamed it.
class OutputFile {
 public:
  explicit OutputFile(const std::string& path) : path_(path), temporary_(path + ".tmp") {
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  }
  ~OutputFile() {
    if (fd_ >= 0) ::close(fd_);
    if (!committed_) ::unlink(temporary_.c_str());
  }
  bool ok() const { return fd_ >= 0; }
  uint64_t position() const { return position_; }
  const std::string& temporary() const { return temporary_; }

  absl::Status Write(ByteSpan bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::write(fd_, bytes.data(), std::min<size_t>(bytes.size(), 64 << 20));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return IoError("write", temporary_);
      bytes = bytes.subspan(static_cast<size_t>(n));
      position_ += static_cast<uint64_t>(n);
    }
    return absl::OkStatus();
  }

  absl::Status Commit() {
    if (::fsync(fd_) != 0) return IoError("sync", temporary_);
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) return IoError("rename to", path_);
    committed_ = true;
    const size_t slash = path_.rfind('/');
    const std::string folder = slash == std::string::npos ? "." : path_.substr(0, slash + 1);
    if (const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); fd >= 0) {
      ::fsync(fd);  // makes the rename durable where the file system can
      ::close(fd);
    }
    return absl::OkStatus();
  }

 private:
  std::string path_, temporary_;
  int fd_ = -1;
  uint64_t position_ = 0;
  bool committed_ = false;
};

}  // namespace

absl::Status WriteSections(const std::string& path, std::span<const SectionPart> parts) {
  std::vector<Section> sections;
  for (const auto& [kind, pieces] : parts)
    sections.push_back({kind, pieces->crc, 0, pieces->bytes});
  const std::string head = MakeHead(sections);

  OutputFile out(path);
  if (!out.ok()) return IoError("create", out.temporary());
  LIFT_RETURN_IF_ERROR(out.Write(AsBytes(head)));
  for (size_t i = 0; i < parts.size(); ++i) {
    const std::vector<std::byte> padding(sections[i].offset - out.position());
    LIFT_RETURN_IF_ERROR(out.Write(padding));
    for (ByteSpan piece : parts[i].second->list) LIFT_RETURN_IF_ERROR(out.Write(piece));
  }
  return out.Commit();
}

}  // namespace lift::format
