// The hash chain over routing decisions: how a row is sealed, and how a whole log is checked.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "kernels/base/status.h"
#include "server/audit/decision.h"

namespace lift {

// What digests are made with: SHA-256, or HMAC-SHA-256 under a secret of the operator.
class AuditKey {
 public:
  AuditKey() = default;  // none: SHA-256
  // INVALID_ARGUMENT for less than 16 bytes.
  static absl::StatusOr<AuditKey> FromSecret(std::string secret);
  // A file's content without white space around it. INVALID_ARGUMENT.
  static absl::StatusOr<AuditKey> Read(const std::string& path);
  bool none() const { return secret_.empty(); }
  const std::string& id() const { return id_; }  // 16 hex digits that do not reveal it; "" = none
  std::string Digest(std::string_view text) const;  // 64 hex digits

 private:
  std::string secret_, id_;
};

// `previous` of the first row.
std::string FirstLink(const std::string& log_id);
// The row's fields but `hash`, as README.md lays them out.
std::string EncodeDecision(const RoutingDecision& decision);
// Numbers become ones that a file keeps exactly: NaN and infinities -1, negative zero 0.
void CleanDecision(RoutingDecision& decision);
// Cleans it, then sets position, link, key and hash.
void SealDecision(RoutingDecision& decision, int64_t position, std::string previous,
                  const AuditKey& key);
// What DecisionHead::seal must be.
std::string HeadSeal(const DecisionHead& head, const AuditKey& key);

// A head that somebody kept: "COUNT:HASH".
struct KeptHead {
  int64_t count = 0;
  std::string hash;
};
absl::StatusOr<KeptHead> ParseKeptHead(const std::string& text);

struct ChainReport {
  bool intact() const { return fault.empty(); }
  int64_t rows = 0;        // checked, up to the fault if there is one
  int64_t keyed = 0;       // of them with a key
  std::string fault;       // a sentence; empty = none
  int64_t fault_row = 0;   // its position; 0 = not one row's
  bool needs_key = false;  // the fault is only that a key is missing
};

// Takes a log's rows in order. Stops at the first fault.
class ChainVerifier {
 public:
  struct Options {
    AuditKey key = {};  // the log's; none: it has none
    // With a key: rows that are older than it. Who lacks the key can make all rows such ones.
    int64_t unkeyed = 0;
    std::optional<KeptHead> kept = {};
    // Every row is there. If not (a tenant's own rows), each is checked by itself.
    bool complete = true;
  };
  ChainVerifier(std::string log_id, Options options);
  void Add(const RoutingDecision& row);
  // `head` was read with the last row.
  ChainReport Finish(const DecisionHead& head);

 private:
  void Check(const RoutingDecision& row);
  void CheckPlace(const RoutingDecision& row);
  void CheckEnd(const DecisionHead& head);
  void Fail(int64_t row, std::string what);
  const AuditKey* KeyOf(const std::string& id) const;

  const std::string log_id_;
  const Options options_;
  const AuditKey none_;
  ChainReport report_;
  int64_t position_ = 0;   // of the last row
  std::string last_hash_;  // its hash
  bool kept_seen_ = false;
};

}  // namespace lift
