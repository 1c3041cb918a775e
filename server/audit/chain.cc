#include "server/audit/chain.h"

#include <openssl/hmac.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <fstream>
#include <iterator>
#include <span>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/mapped_file.h"

namespace lift {
namespace {

constexpr size_t kShortestSecret = 16;
constexpr size_t kHashDigits = 64;

std::string Sha256Text(std::string_view text) {
  return Sha256Hex(std::as_bytes(std::span(text.data(), text.size())));
}

// Numbers as eight bytes, the lowest first; texts behind their length.
struct Encoder {
  std::string& out;
  void Put(uint64_t bits) {
    for (int shift = 0; shift < 64; shift += 8) out.push_back(static_cast<char>(bits >> shift));
  }
  void operator()(const char*, int64_t value) { Put(static_cast<uint64_t>(value)); }
  void operator()(const char*, bool value) { Put(value ? 1 : 0); }
  void operator()(const char*, double value) { Put(std::bit_cast<uint64_t>(value)); }
  void operator()(const char* name, const std::string& text) {
    if (std::string_view(name) == "hash") return;
    Put(text.size());
    out += text;
  }
};

struct Cleaner {
  void operator()(const char*, double& value) const {
    value = std::isfinite(value) ? value + 0.0 : -1.0;  // -0.0 + 0.0 is 0.0
  }
  void operator()(const char*, int64_t&) const {}
  void operator()(const char*, bool&) const {}
  void operator()(const char*, std::string&) const {}
};

}  // namespace

absl::StatusOr<AuditKey> AuditKey::FromSecret(std::string secret) {
  if (secret.size() < kShortestSecret) {
    return absl::InvalidArgumentError(
        absl::StrCat("an audit key needs at least ", kShortestSecret,
                     " bytes; `openssl rand -hex 32` makes a good one"));
  }
  AuditKey key;
  key.secret_ = std::move(secret);
  key.id_ = Sha256Text(absl::StrCat("liftserve.key.1\n", key.secret_)).substr(0, 16);
  return key;
}

absl::StatusOr<AuditKey> AuditKey::Read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  if (!in.good() && !in.eof()) {
    return absl::InvalidArgumentError(absl::StrCat("the audit key ", path, " cannot be read"));
  }
  auto key = FromSecret(std::string(absl::StripAsciiWhitespace(text)));
  if (key.ok()) return key;
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", key.status().message()));
}

std::string AuditKey::Digest(std::string_view text) const {
  if (none()) return Sha256Text(text);
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  LIFT_CHECK(HMAC(EVP_sha256(), secret_.data(), static_cast<int>(secret_.size()),
                  reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data(),
                  &size) != nullptr);
  return absl::BytesToHexString({reinterpret_cast<const char*>(digest.data()), size});
}

std::string FirstLink(const std::string& log_id) {
  return Sha256Text(absl::StrCat("liftserve.decisions.1\n", log_id));
}

std::string EncodeDecision(const RoutingDecision& decision) {
  std::string text = "liftserve.decision.1\n";
  text.reserve(768);
  VisitDecision(decision, Encoder{text});
  return text;
}

void CleanDecision(RoutingDecision& decision) { VisitDecision(decision, Cleaner{}); }

void SealDecision(RoutingDecision& d, int64_t position, std::string previous, const AuditKey& key) {
  CleanDecision(d);
  d.format = kDecisionFormat;
  d.position = position;
  d.previous = std::move(previous);
  d.key_id = key.id();
  d.hash = key.Digest(EncodeDecision(d));
}

std::string HeadSeal(const DecisionHead& head, const AuditKey& key) {
  return key.Digest(
      absl::StrCat("liftserve.head.1\n", head.log_id, "\n", head.count, "\n", head.hash));
}

absl::StatusOr<KeptHead> ParseKeptHead(const std::string& text) {
  KeptHead head;
  const size_t colon = text.find(':');
  head.hash = absl::AsciiStrToLower(colon == std::string::npos ? "" : text.substr(colon + 1));
  const bool hex = std::all_of(head.hash.begin(), head.hash.end(), absl::ascii_isxdigit);
  if (head.hash.size() != kHashDigits || !hex ||
      !absl::SimpleAtoi(text.substr(0, colon), &head.count) || head.count < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("the head '", text, "' must be COUNT:HASH as `audit verify` printed it"));
  }
  return head;
}

ChainVerifier::ChainVerifier(std::string log_id, Options options)
    : log_id_(std::move(log_id)), options_(std::move(options)), last_hash_(FirstLink(log_id_)) {
  const auto& kept = options_.kept;
  kept_seen_ = kept && kept->count == 0 && kept->hash == last_hash_;
}

void ChainVerifier::Fail(int64_t row, std::string what) {
  report_.fault_row = row;
  report_.fault = std::move(what);
}

const AuditKey* ChainVerifier::KeyOf(const std::string& id) const {
  if (id.empty()) return &none_;
  return id == options_.key.id() ? &options_.key : nullptr;
}

void ChainVerifier::Add(const RoutingDecision& row) {
  if (!report_.intact()) return;
  Check(row);
  if (!report_.intact()) return;
  ++report_.rows;
  if (!row.key_id.empty()) ++report_.keyed;
  position_ = row.position;
  last_hash_ = row.hash;
  const auto& kept = options_.kept;
  if (kept && kept->count == position_) {
    kept_seen_ = kept->hash == last_hash_;
    if (!kept_seen_) {
      Fail(position_, absl::StrCat("row ", position_, " is not the one of the kept head"));
    }
  }
}

void ChainVerifier::Check(const RoutingDecision& row) {
  const int64_t at = row.position;
  if (row.format != kDecisionFormat) {
    return Fail(at, absl::StrCat("row ", at, " has format ", row.format, ", this program knows ",
                                 kDecisionFormat));
  }
  CheckPlace(row);
  if (!report_.intact()) return;
  const AuditKey* key = KeyOf(row.key_id);
  if (key == nullptr) {
    report_.needs_key = true;
    return Fail(at, absl::StrCat("row ", at, " was written with the key ", row.key_id,
                                 ", which was not given"));
  }
  const bool may_lack = options_.key.none() || at <= options_.unkeyed;
  if (row.key_id.empty() && options_.complete && !may_lack && report_.keyed == 0) {
    return Fail(at, absl::StrCat("row ", at,
                                 " has no key: if the log was begun without one, say "
                                 "how many rows are older than it"));
  }
  if (row.key_id.empty() && report_.keyed > 0) {
    return Fail(at, absl::StrCat("row ", at, " has no key although rows before it have one"));
  }
  if (key->Digest(EncodeDecision(row)) != row.hash) {
    return Fail(at, absl::StrCat("row ", at, " was changed: its hash is not that of its content"));
  }
  if (row.previous == last_hash_) return;
  if (!options_.complete && at != position_ + 1) return;
  Fail(at, at == 1 ? "row 1 does not begin this log"
                   : absl::StrCat("row ", at, " does not follow row ", at - 1,
                                  ": one of them was replaced"));
}

void ChainVerifier::CheckPlace(const RoutingDecision& row) {
  const int64_t at = row.position, expected = position_ + 1;
  if (at == expected || (at > expected && !options_.complete)) return;
  if (at < expected) {
    return Fail(at, absl::StrCat("row ", at, " comes after row ", position_, ": out of order"));
  }
  Fail(expected, at == expected + 1
                     ? absl::StrCat("row ", expected, " is missing")
                     : absl::StrCat("rows ", expected, " to ", at - 1, " are missing"));
}

void ChainVerifier::CheckEnd(const DecisionHead& head) {
  if (head.log_id != log_id_) return Fail(0, "the log was exchanged for another while it was read");
  if (head.count > position_) {
    return Fail(position_ + 1, absl::StrCat("the log was cut: its head counts ", head.count,
                                            " rows, the last one there is ", position_));
  }
  if (head.count < position_) {
    return Fail(head.count + 1, absl::StrCat("row ", head.count + 1,
                                             " is behind the head, which "
                                             "counts ",
                                             head.count, " rows"));
  }
  if (head.hash != last_hash_) return Fail(0, "the head has another hash than the last row");
  const AuditKey* key = KeyOf(head.key_id);
  if (key == nullptr) {
    report_.needs_key = true;
    return Fail(
        0, absl::StrCat("the head was sealed with the key ", head.key_id, ", which was not given"));
  }
  if (HeadSeal(head, *key) != head.seal) return Fail(0, "the head was changed: its seal is wrong");
  if (!options_.key.none() && head.key_id.empty()) {
    return Fail(0,
                "a key was given, but the head is sealed without one: whoever holds the file "
                "could have written all of it");
  }
}

ChainReport ChainVerifier::Finish(const DecisionHead& head) {
  if (report_.intact() && options_.complete) CheckEnd(head);
  const auto& kept = options_.kept;
  if (report_.intact() && options_.complete && kept && !kept_seen_) {
    Fail(std::min(kept->count, position_ + 1),
         kept->count > position_
             ? absl::StrCat("the log was cut: the kept head counts ", kept->count,
                            " rows, the last one there is ", position_)
             : "the kept head is not of this log");
  }
  return report_;
}

}  // namespace lift
