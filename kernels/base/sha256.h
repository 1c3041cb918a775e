// Incremental SHA-256 (OpenSSL behind it).
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace lift {

// One digest; not thread-safe.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void Update(std::span<const std::byte> bytes);
  // Lower-case hex of everything seen so far. Call once, last.
  std::string HexDigest();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lift
