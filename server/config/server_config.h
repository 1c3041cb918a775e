// Flags and configuration file -> one validated struct.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/base/kv_format.h"
#include "kernels/base/status.h"

namespace lift {

struct ServerConfig {
  std::string model;                      // lifted file, GGUF file or Hugging Face folder
  std::string listen = "127.0.0.1:8431";  // gRPC; port 0 picks one
  std::string admin = "127.0.0.1:8432";   // /metrics, /healthz, /readyz; port 0 picks one
  int threads = 0;        // of the compute pool; 0 = every core this process may use
  int64_t kv_tokens = 0;  // attention state for this many tokens; 0 = from kv_memory_mb
  int64_t kv_memory_mb =
      0;                // MiB of attention state; 0 = room for 4 full contexts, at most 1024 MiB
  int64_t swap_mb = 0;  // MiB beside it for preempted requests' state; 0 = it is computed again
  std::string kv_cache = std::string(KvFormatName(kDefaultKvFormat));  // see KvFormat
  std::string verify = "start";    // checksums of what is served: start | background
  int64_t max_batch = 32;          // sequences in a step
  int64_t max_queue = 256;         // requests waiting; beyond this QUEUE_FULL
  int64_t prefill_chunk = 256;     // prompt tokens per step
  std::string route = "balanced";  // what AUTO aims at, see router::ParsePolicy
  double escalate = 0;    // nats of entropy from which on an answer's precision rises; 0 = never
  int64_t speculate = 0;  // tokens guessed ahead, at most; 0 = none
  int64_t max_message_mb = 4;         // largest request message, MiB
  std::vector<std::string> variants;  // to serve; empty = all of the file
  std::vector<double> cut_mb;         // further variants of these sizes, MB
  double drain_seconds = 30;          // grace of running requests after SIGTERM
  std::string device = "auto";        // auto | cpu | cuda
  std::string cpu_tuning = "auto";    // auto | default | measure | a file, see server/tuning
  bool status_page = true;            // the admin port's / shows it
  std::string log_level = "info";     // error | info
  // Transport security; empty = plaintext.
  std::string tls_cert, tls_key;  // PEM files, read again when they change
  std::string tls_client_ca;      // PEM; clients must then show a certificate it signed ...
  std::string tls_client_auth = "require";  // ... or may: require | optional
  double tls_reload_seconds = 30;           // how often the files above and auth_keys are looked at
  std::string auth_keys;                    // keys file of lift-key; empty = no authentication
  std::string health_listen;                // plaintext grpc.health.v1 alone, for probes; "" = none
  double keepalive_seconds = 60;            // between pings of a silent connection
  double max_connection_age_seconds = 0;    // after which a connection is asked to leave; 0 = never
  std::string compression = "none";         // of answers: none | gzip | deflate
  int64_t max_prompt_tokens = 0;            // of one request; 0 = what the context holds
  int64_t max_answer_tokens = 0;            // of one request; 0 = what the context holds
  double watchdog_seconds = 60;             // a step longer than this is stuck; 0 = off
  bool core_dumps = false;                  // they could hold keys and prompts
  std::string request_log;    // a JSON line for every request; "-" = standard error, "" = none
  bool vllm_metrics = false;  // /metrics also under vLLM's names
  // Memory for weights while the server runs.
  std::string memory_schedule;          // "HH:MM=MIB,...", local time; empty = all variants
  std::string memory_pressure;          // PSI file or cgroup folder to watch; empty = none
  double memory_pressure_percent = 10;  // of time waited for memory: from there on it is short
  // The durable ledger; empty = none, the account is then in memory only.
  std::string ledger;
  std::string ledger_sync = "full";        // survives: full = power loss, normal = the process
  double ledger_interval_seconds = 1;      // between checkpoints of running requests
  int64_t ledger_retention_days = 0;       // older requests become daily sums; 0 = never
  double ledger_drift_check_seconds = 60;  // how often the file is summed up again
  std::string audit_key_file;              // secret of its log of decisions; empty = none
  std::string ready_file;  // written (listen and admin address, a line each) once ready; "" = none

  // INVALID_ARGUMENT naming the flag and its range.
  absl::Status Validate() const;
};

// What the command line asked for: to serve with `config`, or to print `text` and exit 0.
struct CommandLine {
  enum class Action { kServe, kPrint };
  Action action = Action::kServe;
  std::string text;
  ServerConfig config;
};

// Flags win over the file named by --config, which is a JSON object with the flags' names as keys
// ("-" written as "_"). INVALID_ARGUMENT with one sentence for unknown flags, unknown keys, wrong
// types and values out of range.
absl::StatusOr<CommandLine> ParseCommandLine(int argc, const char* const* argv,
                                             const std::string& version_text);

// The file alone, onto `config`.
absl::Status ApplyConfigFile(const std::string& path, ServerConfig& config);

}  // namespace lift
