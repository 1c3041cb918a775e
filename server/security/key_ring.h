// The keys file: salted hashes of API keys, client certificates, and each tenant's quota.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/status.h"

namespace lift {

enum class Role { kUser, kAdmin };

struct Identity {
  std::string tenant;
  Role role = Role::kUser;
  friend bool operator==(const Identity&, const Identity&) = default;
};

// 0 = no limit.
struct Quota {
  int64_t max_concurrent = 0;          // requests at once
  double tokens_per_second = 0;        // prompt and generated, averaged over burst_seconds
  double byte_seconds_per_second = 0;  // memory held on average, bytes
  double burst_seconds = 10;           // of unused allowance that may be saved up
};

// 1 to 64 of [A-Za-z0-9_.-] and not "__...", which the meter keeps for itself.
bool IsTenantName(std::string_view name);

// Immutable after parsing, so thread-safe.
class KeyRing {
 public:
  // INVALID_ARGUMENT naming the entry that is wrong; never quotes a salt, hash or key.
  static absl::StatusOr<KeyRing> Parse(std::string_view json_text);

  // UNAUTHENTICATED (reason INVALID_CREDENTIALS), the same for every kind of wrong key.
  absl::StatusOr<Identity> Authenticate(std::string_view key) const;
  // The identity of the first of a verified certificate's names that the file knows;
  // UNAUTHENTICATED if none is.
  absl::StatusOr<Identity> FromCertificate(const std::vector<std::string>& names) const;
  const Quota& QuotaOf(const std::string& tenant) const;

 private:
  struct Record {
    Identity identity;
    std::string salt, hash;  // raw bytes
  };
  std::map<std::string, Record, std::less<>> keys_;  // by id
  std::map<std::string, Identity, std::less<>> certificates_;
  std::map<std::string, Quota> quotas_;
  Quota default_quota_;
  Record nobody_;  // what an unknown id is compared with, so that it takes as long
};

// A new key and its record for the file. Fails only if the system gives no randomness.
struct NewKey {
  std::string key;  // to show once
  std::string id, salt_hex, hash_hex;
};
absl::StatusOr<NewKey> MakeKey();

}  // namespace lift
