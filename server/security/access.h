// The keys file as it is now: read again when it changes, the last good version kept otherwise.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "server/security/key_ring.h"

namespace lift {

// Thread-safe.
class Access {
 public:
  // What went wrong or was done, for the log: one sentence without secrets. Called on the watching
  // thread.
  using Report = std::function<void(const std::string&)>;

  // Reads the file; INVALID_ARGUMENT if it cannot be used. Looks for changes every `poll`.
  static absl::StatusOr<std::unique_ptr<Access>> Open(std::string path,
                                                      std::chrono::milliseconds poll,
                                                      Report report);
  ~Access();

  std::shared_ptr<const KeyRing> ring() const;
  // Reads the file again now.
  absl::Status Reload();

 private:
  Access(std::string path, Report report) : path_(std::move(path)), report_(std::move(report)) {}
  void Watch(std::chrono::milliseconds poll);

  const std::string path_;
  const Report report_;
  mutable std::mutex mutex_;
  std::condition_variable stop_;
  bool stopping_ = false;
  std::shared_ptr<const KeyRing> ring_;
  std::string text_hash_;  // of the version in force or last refused
  std::thread watcher_;
};

}  // namespace lift
