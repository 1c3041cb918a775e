#include "server/security/key_ring.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/errors.h"

namespace lift {
namespace {

using nlohmann::json;

constexpr absl::string_view kPrefix = "ls_";
constexpr size_t kIdDigits = 8, kSecretBytes = 32, kSaltBytes = 16, kHashBytes = 32;

std::string Digest(std::string_view salt, std::string_view secret) {
  unsigned char out[kHashBytes];
  unsigned int size = 0;
  HMAC(EVP_sha256(), salt.data(), static_cast<int>(salt.size()),
       reinterpret_cast<const unsigned char*>(secret.data()), secret.size(), out, &size);
  return {reinterpret_cast<const char*>(out), size};
}

bool IsHex(std::string_view text, size_t bytes) {
  return text.size() == 2 * bytes && std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return std::isxdigit(c) != 0;
         });
}

template <class... Parts>
absl::Status Wrong(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat("keys file: ", parts...));
}

absl::Status Refused() {
  return WithReason(
      absl::UnauthenticatedError("the API key or certificate is not known here; send a valid key "
                                 "as metadata \"authorization: Bearer KEY\""),
      "INVALID_CREDENTIALS");
}

absl::Status CheckKeys(const json& object, const std::string& where,
                       const std::set<std::string>& known) {
  if (!object.is_object()) return Wrong(where, " is not a JSON object");
  for (const auto& [key, value] : object.items()) {
    if (!known.contains(key)) return Wrong(where, " has the unknown key '", key, "'");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Text(const json& object, const char* key, const std::string& where) {
  const auto it = object.find(key);
  if (it == object.end() || !it->is_string()) return Wrong(where, " needs the string '", key, "'");
  return it->get<std::string>();
}

absl::StatusOr<Identity> ParseIdentity(const json& object, const std::string& where) {
  Identity identity;
  LIFT_ASSIGN_OR_RETURN(identity.tenant, Text(object, "tenant", where));
  if (!IsTenantName(identity.tenant)) {
    return Wrong(where, ": tenant must be 1 to 64 of [A-Za-z0-9_.-], not beginning with \"__\"");
  }
  if (!object.contains("role")) return identity;
  LIFT_ASSIGN_OR_RETURN(const std::string role, Text(object, "role", where));
  if (role != "user" && role != "admin") return Wrong(where, ": role must be user or admin");
  identity.role = role == "admin" ? Role::kAdmin : Role::kUser;
  return identity;
}

absl::StatusOr<Quota> ParseQuota(const json& object, const std::string& where) {
  LIFT_RETURN_IF_ERROR(CheckKeys(
      object, where,
      {"max_concurrent", "tokens_per_second", "byte_seconds_per_second", "burst_seconds"}));
  Quota quota;
  const auto read = [&](const char* key, auto& field) -> absl::Status {
    const auto it = object.find(key);
    if (it == object.end()) return absl::OkStatus();
    if (!it->is_number() || !(it->get<double>() >= 0 && it->get<double>() <= 1e18)) {
      return Wrong(where, ": ", key, " must be a number from 0 (no limit) to 1e18");
    }
    it->get_to(field);
    return absl::OkStatus();
  };
  LIFT_RETURN_IF_ERROR(read("max_concurrent", quota.max_concurrent));
  LIFT_RETURN_IF_ERROR(read("tokens_per_second", quota.tokens_per_second));
  LIFT_RETURN_IF_ERROR(read("byte_seconds_per_second", quota.byte_seconds_per_second));
  LIFT_RETURN_IF_ERROR(read("burst_seconds", quota.burst_seconds));
  if (!(quota.burst_seconds > 0)) return Wrong(where, ": burst_seconds must be above 0");
  return quota;
}

// The array under `key`, empty if absent; one "keys[3]" style name per entry goes to `each`.
template <class F>
absl::Status ForEach(const json& document, const char* key, F&& each) {
  const auto it = document.find(key);
  if (it == document.end()) return absl::OkStatus();
  if (!it->is_array()) return Wrong("'", key, "' is not an array");
  for (size_t i = 0; i < it->size(); ++i) {
    LIFT_RETURN_IF_ERROR(each((*it)[i], absl::StrCat(key, "[", i, "]")));
  }
  return absl::OkStatus();
}

}  // namespace

bool IsTenantName(std::string_view name) {
  if (name.empty() || name.size() > 64 || name.substr(0, 2) == "__") return false;
  return std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return c < 128 && (std::isalnum(c) || c == '_' || c == '.' || c == '-');
  });
}

absl::StatusOr<KeyRing> KeyRing::Parse(std::string_view json_text) {
  const json document = json::parse(json_text, nullptr, /*allow_exceptions=*/false);
  if (document.is_discarded()) return Wrong("it is not JSON");
  LIFT_RETURN_IF_ERROR(
      CheckKeys(document, "it", {"keys", "certificates", "quotas", "default_quota"}));
  KeyRing ring;
  ring.nobody_.salt.assign(kSaltBytes, '\0');
  ring.nobody_.hash.assign(kHashBytes, '\0');
  LIFT_RETURN_IF_ERROR(
      ForEach(document, "keys", [&](const json& entry, const std::string& where) -> absl::Status {
        LIFT_RETURN_IF_ERROR(
            CheckKeys(entry, where, {"id", "tenant", "role", "salt", "hash", "note"}));
        LIFT_ASSIGN_OR_RETURN(const std::string id, Text(entry, "id", where));
        LIFT_ASSIGN_OR_RETURN(const std::string salt, Text(entry, "salt", where));
        LIFT_ASSIGN_OR_RETURN(const std::string hash, Text(entry, "hash", where));
        if (!IsHex(id, kIdDigits / 2)) return Wrong(where, ": id must be 8 hexadecimal digits");
        if (!IsHex(salt, kSaltBytes) || !IsHex(hash, kHashBytes)) {
          return Wrong(
              where,
              ": salt and hash must be 32 and 64 hexadecimal digits, as lift-key writes them");
        }
        Record record;
        record.salt = absl::HexStringToBytes(salt);
        record.hash = absl::HexStringToBytes(hash);
        LIFT_ASSIGN_OR_RETURN(record.identity, ParseIdentity(entry, where));
        if (!ring.keys_.emplace(id, std::move(record)).second) {
          return Wrong(where, ": id ", id, " appears twice");
        }
        return absl::OkStatus();
      }));
  LIFT_RETURN_IF_ERROR(ForEach(
      document, "certificates", [&](const json& entry, const std::string& where) -> absl::Status {
        LIFT_RETURN_IF_ERROR(CheckKeys(entry, where, {"name", "tenant", "role"}));
        LIFT_ASSIGN_OR_RETURN(const std::string name, Text(entry, "name", where));
        LIFT_ASSIGN_OR_RETURN(Identity identity, ParseIdentity(entry, where));
        if (name.empty()) return Wrong(where, ": name is empty");
        if (!ring.certificates_.emplace(name, std::move(identity)).second) {
          return Wrong(where, ": name ", name, " appears twice");
        }
        return absl::OkStatus();
      }));
  if (const auto it = document.find("default_quota"); it != document.end()) {
    LIFT_ASSIGN_OR_RETURN(ring.default_quota_, ParseQuota(*it, "default_quota"));
  }
  if (const auto it = document.find("quotas"); it != document.end()) {
    if (!it->is_object()) return Wrong("'quotas' is not an object");
    for (const auto& [tenant, value] : it->items()) {
      if (!IsTenantName(tenant)) return Wrong("quotas: '", tenant, "' is not a tenant's name");
      LIFT_ASSIGN_OR_RETURN(ring.quotas_[tenant], ParseQuota(value, "quotas." + tenant));
    }
  }
  return ring;
}

absl::StatusOr<Identity> KeyRing::Authenticate(std::string_view key) const {
  std::string_view id, secret;
  if (absl::StartsWith({key.data(), key.size()}, kPrefix) &&
      key.size() > kPrefix.size() + kIdDigits && key.size() < 256) {
    id = key.substr(kPrefix.size(), kIdDigits);
    secret = key.substr(kPrefix.size() + kIdDigits + 1);
  }
  const auto it = keys_.find(id);
  const Record& record = it == keys_.end() ? nobody_ : it->second;
  const std::string digest = Digest(record.salt, secret);
  const bool same = CRYPTO_memcmp(digest.data(), record.hash.data(), kHashBytes) == 0;
  if (!same || it == keys_.end() || secret.size() < kSecretBytes) return Refused();
  return record.identity;
}

absl::StatusOr<Identity> KeyRing::FromCertificate(const std::vector<std::string>& names) const {
  for (const std::string& name : names) {
    if (const auto it = certificates_.find(name); it != certificates_.end()) return it->second;
  }
  return Refused();
}

const Quota& KeyRing::QuotaOf(const std::string& tenant) const {
  const auto it = quotas_.find(tenant);
  return it == quotas_.end() ? default_quota_ : it->second;
}

absl::StatusOr<NewKey> MakeKey() {
  unsigned char bytes[kIdDigits / 2 + kSecretBytes + kSaltBytes];
  if (RAND_bytes(bytes, sizeof bytes) != 1) {
    return absl::InternalError("the system gives no randomness");
  }
  const std::string random(reinterpret_cast<const char*>(bytes), sizeof bytes);
  NewKey made;
  made.id = absl::BytesToHexString(random.substr(0, kIdDigits / 2));
  const std::string secret = absl::WebSafeBase64Escape(random.substr(kIdDigits / 2, kSecretBytes));
  const std::string salt = random.substr(kIdDigits / 2 + kSecretBytes);
  made.key = absl::StrCat(kPrefix, made.id, "_", secret);
  made.salt_hex = absl::BytesToHexString(salt);
  made.hash_hex = absl::BytesToHexString(Digest(salt, secret));
  OPENSSL_cleanse(bytes, sizeof bytes);
  return made;
}

}  // namespace lift
