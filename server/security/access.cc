#include "server/security/access.h"

#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "kernels/base/mapped_file.h"

namespace lift {
namespace {

// The whole file: Kubernetes swaps a mounted secret by a link, so times and inodes say little.
absl::StatusOr<std::string> ReadWhole(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  if (!in.good() && !in.eof())
    return absl::InvalidArgumentError(absl::StrCat(path, " cannot be read"));
  return text;
}

std::string HashOf(const std::string& text) {
  return Sha256Hex(std::as_bytes(std::span(text.data(), text.size())));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Access>> Access::Open(std::string path,
                                                     std::chrono::milliseconds poll,
                                                     Report report) {
  std::unique_ptr<Access> access(new Access(std::move(path), std::move(report)));
  LIFT_RETURN_IF_ERROR(access->Reload());
  access->watcher_ = std::thread([raw = access.get(), poll] { raw->Watch(poll); });
  return access;
}

Access::~Access() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  stop_.notify_all();
  if (watcher_.joinable()) watcher_.join();
}

std::shared_ptr<const KeyRing> Access::ring() const {
  std::lock_guard lock(mutex_);
  return ring_;
}

absl::Status Access::Reload() {
  LIFT_ASSIGN_OR_RETURN(const std::string text, ReadWhole(path_));
  std::string hash = HashOf(text);
  {
    std::lock_guard lock(mutex_);
    if (hash == text_hash_) return absl::OkStatus();
    text_hash_ = std::move(hash);
  }
  auto ring = KeyRing::Parse(text);
  if (!ring.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": ", ring.status().message()));
  }
  const bool first = this->ring() == nullptr;
  {
    std::lock_guard lock(mutex_);
    ring_ = std::make_shared<const KeyRing>(*std::move(ring));
  }
  if (!first && report_) report_(absl::StrCat("keys file ", path_, " was read again"));
  return absl::OkStatus();
}

void Access::Watch(std::chrono::milliseconds poll) {
  bool readable = true;
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      if (stop_.wait_for(lock, poll, [this] { return stopping_; })) return;
    }
    const absl::Status status = Reload();
    // A missing file is reported once, a wrong one once per version.
    if (!status.ok() && readable && report_) {
      report_(absl::StrCat(status.message(), "; the last good version stays in force"));
    }
    readable = status.ok();
  }
}

}  // namespace lift
