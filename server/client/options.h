// lift-client's command line as one struct.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/base/status.h"
#include "server/config/answer_flags.h"

namespace lift::client {

struct ClientOptions {
  std::string command;  // the sub-command's name; of `audit verify` "audit-verify"
  std::string server = "127.0.0.1:8431";
  std::string tenant;           // empty = none sent
  double deadline_seconds = 0;  // 0 = none
  std::string api_key;          // sent as a bearer token; only ever from the environment or a file
  std::string api_key_file, tls_ca, tls_cert, tls_key, tls_server_name;
  bool tls = false;
  bool json = false;

  std::string model, request_id;
  std::string prompt, system,
      messages_file;  // text; system message; JSON file with [{"role","content"}]
  std::vector<int32_t> token_ids;
  bool parse_special = false, add_special = false;

  std::string variant;  // pins it
  double min_lambda = 0, max_quality_loss = 0;
  bool allow_fallback = false;

  std::optional<double> temperature, top_p, min_p;
  std::optional<double> repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<int64_t> top_k, max_new_tokens, min_new_tokens;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  std::vector<std::string> logit_bias;  // "TOKEN_ID:BIAS"
  ConstraintFlags constraint;
  int logprobs = -1;  // -1 = none, else this many alternatives
  int priority = 0;

  std::string service;                         // health: what to ask about
  std::string usage_tenant, usage_variant;     // usage, records, bill: filters
  std::string month, begin, end;               // their period; see ReadPeriod
  std::string by = "total";                    // total | hour | day
  std::string format = "text";                 // text | json | csv | focus
  uint64_t weight_bytes = 0;                   // budget: most bytes for weights
  std::string file;                            // swap: the new model, beside the old one
  std::string price, tiers, currency = "USD";  // bill: per GiB-hour; see ParsePriceTiers
  // audit-verify, audit-parity
  std::string ledger_file;                // instead of a server
  std::string audit_key_file;             // secret of its log of decisions
  int64_t unkeyed = 0;                    // rows older than that key
  std::string audit_head;                 // COUNT:HASH, kept from an earlier run
  std::string audit_by = "tenant";        // tenant | language | class
  std::string measure = "served";         // served | chosen
  double alpha = 0.01, tolerance = 0.01;  // see ParityOptions
};

// Exits are the caller's: `print` holds the text of --help or --version.
struct ParsedCommandLine {
  std::optional<std::string> print;
  ClientOptions options;
};
absl::StatusOr<ParsedCommandLine> ParseCommandLine(int argc, const char* const* argv,
                                                   const std::string& version);

}  // namespace lift::client
