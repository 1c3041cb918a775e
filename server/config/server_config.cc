#include "server/config/server_config.h"

#include <CLI/CLI.hpp>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "router/router.h"

namespace lift {
namespace {

using nlohmann::json;

// Reads one key of the configuration file into its field.
using Setter = std::function<void(const json&)>;

std::map<std::string, Setter> SettersOf(ServerConfig& c) {
  const auto into = [](auto& field) {
    return [&field](const json& value) {
      using Field = std::remove_reference_t<decltype(field)>;
      if constexpr (std::is_integral_v<Field> && !std::is_same_v<Field, bool>) {
        if (!value.is_number_integer())
          throw json::type_error::create(302, "not an integer", &value);
      }
      value.get_to(field);
    };
  };
  return {{"model", into(c.model)},
          {"listen", into(c.listen)},
          {"admin", into(c.admin)},
          {"threads", into(c.threads)},
          {"kv_tokens", into(c.kv_tokens)},
          {"kv_memory_mb", into(c.kv_memory_mb)},
          {"swap_mb", into(c.swap_mb)},
          {"kv_cache", into(c.kv_cache)},
          {"verify", into(c.verify)},
          {"max_batch", into(c.max_batch)},
          {"max_queue", into(c.max_queue)},
          {"prefill_chunk", into(c.prefill_chunk)},
          {"route", into(c.route)},
          {"escalate", into(c.escalate)},
          {"speculate", into(c.speculate)},
          {"max_message_mb", into(c.max_message_mb)},
          {"variants", into(c.variants)},
          {"cut_mb", into(c.cut_mb)},
          {"drain_seconds", into(c.drain_seconds)},
          {"device", into(c.device)},
          {"cpu_tuning", into(c.cpu_tuning)},
          {"status_page", into(c.status_page)},
          {"log_level", into(c.log_level)},
          {"tls_cert", into(c.tls_cert)},
          {"tls_key", into(c.tls_key)},
          {"tls_client_ca", into(c.tls_client_ca)},
          {"tls_client_auth", into(c.tls_client_auth)},
          {"tls_reload_seconds", into(c.tls_reload_seconds)},
          {"auth_keys", into(c.auth_keys)},
          {"health_listen", into(c.health_listen)},
          {"keepalive_seconds", into(c.keepalive_seconds)},
          {"max_connection_age_seconds", into(c.max_connection_age_seconds)},
          {"compression", into(c.compression)},
          {"max_prompt_tokens", into(c.max_prompt_tokens)},
          {"max_answer_tokens", into(c.max_answer_tokens)},
          {"watchdog_seconds", into(c.watchdog_seconds)},
          {"core_dumps", into(c.core_dumps)},
          {"request_log", into(c.request_log)},
          {"vllm_metrics", into(c.vllm_metrics)},
          {"memory_schedule", into(c.memory_schedule)},
          {"memory_pressure", into(c.memory_pressure)},
          {"memory_pressure_percent", into(c.memory_pressure_percent)},
          {"ledger", into(c.ledger)},
          {"ledger_sync", into(c.ledger_sync)},
          {"ledger_interval_seconds", into(c.ledger_interval_seconds)},
          {"ledger_retention_days", into(c.ledger_retention_days)},
          {"ledger_drift_check_seconds", into(c.ledger_drift_check_seconds)},
          {"audit_key_file", into(c.audit_key_file)},
          {"ready_file", into(c.ready_file)}};
}

void AddFlags(CLI::App& app, ServerConfig& c) {
  app.add_option("--model", c.model, "Lifted file (or GGUF file, or Hugging Face folder) to serve");
  app.add_option("--listen", c.listen, "HOST:PORT of the gRPC service; port 0 picks one")
      ->capture_default_str();
  app.add_option("--admin", c.admin, "IP:PORT of /metrics, /healthz and /readyz; port 0 picks one")
      ->capture_default_str();
  app.add_option("--threads", c.threads, "Compute threads; 0 = all cores this process may use")
      ->capture_default_str();
  app.add_option("--kv-tokens", c.kv_tokens,
                 "Attention state for this many tokens over all requests");
  app.add_option("--kv-memory-mb", c.kv_memory_mb,
                 "Attention state in MiB; 0 = four full contexts, at most 1024 MiB");
  app.add_option("--swap-mb", c.swap_mb,
                 "MiB beside it for the state of requests that make room for others, where copying "
                 "it is faster than computing it again; 0 = off")
      ->capture_default_str();
  app.add_option("--kv-cache", c.kv_cache,
                 "How attention state is kept: f32, f16, bf16 or int8 (f32: 4 bytes a number)")
      ->capture_default_str();
  app.add_option("--verify", c.verify,
                 "When the checksums of the served planes are checked: start (before the first "
                 "answer) or background (answers at once; ends the process if one is wrong)")
      ->capture_default_str();
  app.add_option("--max-batch", c.max_batch, "Requests computed together")->capture_default_str();
  app.add_option("--max-queue", c.max_queue, "Requests that may wait; more are refused")
      ->capture_default_str();
  app.add_option("--prefill-chunk", c.prefill_chunk, "Prompt tokens read per step")
      ->capture_default_str();
  app.add_option("--route", c.route,
                 "What precision AUTO aims at: balanced; budget:BITS (so many plane bits a weight "
                 "on average); quality:NATS (the least that is expected to lose no more); or "
                 "fixed:VARIANT. Floors of requests come first")
      ->capture_default_str();
  app.add_option("--escalate", c.escalate,
                 "Raise an answer's precision by a variant when the average entropy of its next "
                 "tokens reaches this many nats (3 is a good start); never of pinned requests; "
                 "0 = off")
      ->capture_default_str();
  app.add_option("--speculate", c.speculate,
                 "Guess up to this many tokens ahead at a coarser variant and verify them in one "
                 "step, where that is faster; answers stay the same; a trained router counts what "
                 "is then read; 0 = off")
      ->capture_default_str();
  app.add_option("--max-message-mb", c.max_message_mb, "Largest request message in MiB")
      ->capture_default_str();
  app.add_option("--variants", c.variants,
                 "Serve only these variants (comma-separated); default all")
      ->delimiter(',');
  app.add_option("--cut-mb", c.cut_mb,
                 "Serve further variants of these sizes in MB (comma-separated), cut from the file "
                 "as it is; lift-calibrate plan says what to expect of them")
      ->delimiter(',');
  app.add_option("--drain-seconds", c.drain_seconds,
                 "After SIGTERM, time running requests get to finish")
      ->capture_default_str();
  app.add_option("--device", c.device, "auto, cpu or cuda")->capture_default_str();
  app.add_option("--cpu-tuning", c.cpu_tuning,
                 "Which of two ways of equal bits multiplies by how many sequences at once: auto "
                 "(what lift-bench tune stored for this machine, else the built-in), default (the "
                 "built-in), measure (at start, and store it) or the path of such a file")
      ->capture_default_str();
  app.add_flag("--status-page,!--no-status-page", c.status_page,
               "Show the status page at / of the admin port (default: on)");
  app.add_option("--log-level", c.log_level, "error or info")->capture_default_str();
  app.add_option("--ready-file", c.ready_file,
                 "Write the gRPC and admin address here (a line each) once ready");
}

void AddSecurityFlags(CLI::App& app, ServerConfig& c) {
  app.add_option("--tls-cert", c.tls_cert, "PEM certificate chain; with --tls-key turns TLS on");
  app.add_option("--tls-key", c.tls_key, "PEM private key of --tls-cert");
  app.add_option("--tls-client-ca", c.tls_client_ca,
                 "PEM certificates that must have signed a client's certificate (mTLS)");
  app.add_option("--tls-client-auth", c.tls_client_auth,
                 "With --tls-client-ca: require or optional")
      ->capture_default_str();
  app.add_option("--tls-reload-seconds", c.tls_reload_seconds,
                 "How often certificates and the keys file are looked at for changes")
      ->capture_default_str();
  app.add_option("--auth-keys", c.auth_keys,
                 "Keys file made by lift-key; every call then needs a key or a known certificate");
  app.add_option("--health-listen", c.health_listen,
                 "HOST:PORT of a plaintext port that answers grpc.health.v1 and nothing else");
  app.add_option("--keepalive-seconds", c.keepalive_seconds,
                 "Time between pings of a silent connection")
      ->capture_default_str();
  app.add_option("--max-connection-age-seconds", c.max_connection_age_seconds,
                 "Ask clients to reconnect after this time (calls finish first); 0 = never")
      ->capture_default_str();
  app.add_option("--compression", c.compression, "Of answers: none, gzip or deflate")
      ->capture_default_str();
  app.add_option("--max-prompt-tokens", c.max_prompt_tokens,
                 "Longest prompt accepted; 0 = what the context holds")
      ->capture_default_str();
  app.add_option("--max-answer-tokens", c.max_answer_tokens,
                 "Largest max_new_tokens accepted; 0 = what the context holds")
      ->capture_default_str();
  app.add_option("--watchdog-seconds", c.watchdog_seconds,
                 "A step that takes longer is stuck: not ready, not healthy; 0 = off")
      ->capture_default_str();
  app.add_flag("--core-dumps", c.core_dumps, "Allow core dumps, which may hold keys and prompts");
}

void AddMemoryFlags(CLI::App& app, ServerConfig& c) {
  app.add_option("--request-log", c.request_log,
                 "Append a JSON line for every request, without its text; - = standard error");
  app.add_flag("--vllm-metrics", c.vllm_metrics, "Show metrics under vLLM's names, too");
  app.add_option("--memory-schedule", c.memory_schedule,
                 "HH:MM=MIB,...: from then on (local time) keep the variants whose weights fit");
  app.add_option(
      "--memory-pressure", c.memory_pressure,
      "PSI file (/proc/pressure/memory) or cgroup folder (memory.pressure, memory.high): "
      "drop variants while memory is short");
  app.add_option("--memory-pressure-percent", c.memory_pressure_percent,
                 "Memory is short when tasks wait for it this share of 10 s")
      ->capture_default_str();
}

void AddLedgerFlags(CLI::App& app, ServerConfig& c) {
  app.add_option("--ledger", c.ledger,
                 "SQLite file that keeps what every request used; made if absent, one server each");
  app.add_option("--ledger-sync", c.ledger_sync,
                 "full: an answer's end is told once it survives power loss; normal: the process")
      ->capture_default_str();
  app.add_option("--ledger-interval-seconds", c.ledger_interval_seconds,
                 "What a crash may lose of running requests; checkpoints are twice as frequent")
      ->capture_default_str();
  app.add_option("--ledger-retention-days", c.ledger_retention_days,
                 "Fold requests older than this into daily sums by tenant and variant; 0 = never")
      ->capture_default_str();
  app.add_option("--ledger-drift-check-seconds", c.ledger_drift_check_seconds,
                 "How often the file is summed up and compared with the metrics")
      ->capture_default_str();
  app.add_option("--audit-key-file", c.audit_key_file,
                 "File with a secret of 16 bytes or more: the ledger's log of routing decisions is "
                 "chained with HMAC-SHA-256 under it, not with SHA-256 alone");
}

absl::Status CheckSeconds(const char* flag, double value, double low) {
  if (value >= low && value <= 86400) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(flag, " is ", value, "; it must be from ", low, " to 86400"));
}

absl::Status CheckRange(const char* flag, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(flag, " is ", value, "; it must be from ", low, " to ", high));
}

absl::Status CheckChoice(const char* flag, const std::string& value,
                         std::initializer_list<const char*> choices) {
  std::string list;
  for (const char* choice : choices) {
    if (value == choice) return absl::OkStatus();
    absl::StrAppend(&list, list.empty() ? "" : ", ", choice);
  }
  return absl::InvalidArgumentError(
      absl::StrCat(flag, " is '", value, "'; it must be one of ", list));
}

// The value of --config, found before the flags proper are parsed so that those can override the
// file.
const char* ConfigPath(int argc, const char* const* argv) {
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--config") == 0 && i + 1 < argc) return argv[i + 1];
    if (std::strncmp(argv[i], "--config=", 9) == 0) return argv[i] + 9;
  }
  return nullptr;
}

}  // namespace

namespace {

absl::Status CheckAddress(const char* flag, const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon != std::string::npos && colon != 0 && colon + 1 != address.size()) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(flag, " is '", address, "'; it must be HOST:PORT"));
}

absl::Status ValidateSecurity(const ServerConfig& c) {
  if (c.tls_cert.empty() != c.tls_key.empty()) {
    return absl::InvalidArgumentError("--tls-cert and --tls-key belong together; give both");
  }
  if (!c.tls_client_ca.empty() && c.tls_cert.empty()) {
    return absl::InvalidArgumentError("--tls-client-ca needs --tls-cert and --tls-key");
  }
  if (!c.health_listen.empty()) {
    LIFT_RETURN_IF_ERROR(CheckAddress("--health-listen", c.health_listen));
  }
  LIFT_RETURN_IF_ERROR(
      CheckChoice("--tls-client-auth", c.tls_client_auth, {"require", "optional"}));
  LIFT_RETURN_IF_ERROR(CheckChoice("--compression", c.compression, {"none", "gzip", "deflate"}));
  LIFT_RETURN_IF_ERROR(CheckSeconds("--tls-reload-seconds", c.tls_reload_seconds, 1));
  LIFT_RETURN_IF_ERROR(CheckSeconds("--keepalive-seconds", c.keepalive_seconds, 1));
  LIFT_RETURN_IF_ERROR(
      CheckSeconds("--max-connection-age-seconds", c.max_connection_age_seconds, 0));
  LIFT_RETURN_IF_ERROR(CheckSeconds("--watchdog-seconds", c.watchdog_seconds, 0));
  LIFT_RETURN_IF_ERROR(CheckRange("--max-prompt-tokens", c.max_prompt_tokens, 0, INT32_MAX));
  return CheckRange("--max-answer-tokens", c.max_answer_tokens, 0, INT32_MAX);
}

absl::Status ValidateLedger(const ServerConfig& c) {
  LIFT_RETURN_IF_ERROR(CheckChoice("--ledger-sync", c.ledger_sync, {"full", "normal"}));
  LIFT_RETURN_IF_ERROR(CheckSeconds("--ledger-interval-seconds", c.ledger_interval_seconds, 0.01));
  LIFT_RETURN_IF_ERROR(
      CheckSeconds("--ledger-drift-check-seconds", c.ledger_drift_check_seconds, 1));
  if (!(c.memory_pressure_percent > 0 && c.memory_pressure_percent <= 100)) {
    return absl::InvalidArgumentError(absl::StrCat("--memory-pressure-percent is ",
                                                   c.memory_pressure_percent,
                                                   "; it must be above 0 and at most 100"));
  }
  if (!c.audit_key_file.empty() && c.ledger.empty()) {
    return absl::InvalidArgumentError(
        "--audit-key-file needs --ledger: the log of routing decisions is kept there");
  }
  return CheckRange("--ledger-retention-days", c.ledger_retention_days, 0, 36500);
}

}  // namespace

absl::Status ServerConfig::Validate() const {
  if (model.empty())
    return absl::InvalidArgumentError("--model is missing; name the file to serve");
  for (const auto& [flag, address] : {std::pair{"--listen", &listen}, {"--admin", &admin}}) {
    LIFT_RETURN_IF_ERROR(CheckAddress(flag, *address));
  }
  LIFT_RETURN_IF_ERROR(CheckRange("--threads", threads, 0, 1024));
  LIFT_RETURN_IF_ERROR(CheckRange("--kv-tokens", kv_tokens, 0, int64_t{1} << 32));
  LIFT_RETURN_IF_ERROR(CheckRange("--kv-memory-mb", kv_memory_mb, 0, int64_t{1} << 24));
  LIFT_RETURN_IF_ERROR(CheckRange("--swap-mb", swap_mb, 0, int64_t{1} << 24));
  LIFT_RETURN_IF_ERROR(CheckChoice("--kv-cache", kv_cache, {"f32", "f16", "bf16", "int8"}));
  LIFT_RETURN_IF_ERROR(CheckChoice("--verify", verify, {"start", "background"}));
  LIFT_RETURN_IF_ERROR(CheckRange("--max-batch", max_batch, 1, 4096));
  LIFT_RETURN_IF_ERROR(CheckRange("--max-queue", max_queue, 0, 1000000));
  LIFT_RETURN_IF_ERROR(CheckRange("--prefill-chunk", prefill_chunk, 1, 65536));
  if (const absl::Status policy = router::ParsePolicy(route).status(); !policy.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--route: ", policy.message()));
  }
  if (!(escalate >= 0 && escalate <= 20)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--escalate is ", escalate, "; it must be between 0 (off) and 20 nats"));
  }
  LIFT_RETURN_IF_ERROR(CheckRange("--speculate", speculate, 0, 16));
  LIFT_RETURN_IF_ERROR(CheckRange("--max-message-mb", max_message_mb, 1, 1024));
  for (double mb : cut_mb) {
    if (!(mb > 0 && mb < 1e9)) return absl::InvalidArgumentError("--cut-mb must be positive");
  }
  if (kv_tokens > 0 && kv_memory_mb > 0) {
    return absl::InvalidArgumentError(
        "--kv-tokens and --kv-memory-mb exclude each other; give one");
  }
  if (!(drain_seconds >= 0 && drain_seconds <= 86400)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--drain-seconds is ", drain_seconds, "; it must be from 0 to 86400"));
  }
  LIFT_RETURN_IF_ERROR(ValidateSecurity(*this));
  LIFT_RETURN_IF_ERROR(ValidateLedger(*this));
  LIFT_RETURN_IF_ERROR(CheckChoice("--device", device, {"auto", "cpu", "cuda"}));
  if (cpu_tuning.empty()) {
    return absl::InvalidArgumentError(
        "--cpu-tuning is empty; it must be auto, default, measure or the path of a file");
  }
  return CheckChoice("--log-level", log_level, {"error", "info"});
}

absl::Status ApplyConfigFile(const std::string& path, ServerConfig& config) {
  std::ifstream in(path);
  if (!in) return absl::InvalidArgumentError(absl::StrCat("--config ", path, " cannot be read"));
  const json document = json::parse(in, nullptr, /*allow_exceptions=*/false);
  if (!document.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat("--config ", path, " is not a JSON object"));
  }
  const auto setters = SettersOf(config);
  for (const auto& [key, value] : document.items()) {
    const auto setter = setters.find(key);
    if (setter == setters.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--config ", path, ": unknown key '", key, "'"));
    }
    try {
      setter->second(value);
    } catch (const json::exception&) {
      return absl::InvalidArgumentError(
          absl::StrCat("--config ", path, ": key '", key, "' has the wrong type"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<CommandLine> ParseCommandLine(int argc, const char* const* argv,
                                             const std::string& version_text) {
  CommandLine result;
  std::string config_path;
  if (const char* path = ConfigPath(argc, argv)) {
    LIFT_RETURN_IF_ERROR(ApplyConfigFile(path, result.config));
  }
  CLI::App app{
      "Serves every precision variant of a lifted model over gRPC.\n"
      "SIGTERM or SIGINT refuses new work, lets running requests finish and exits 0.",
      "lift-server"};
  app.add_option("--config", config_path,
                 "JSON object with these flags' names ('-' as '_'); flags win");
  app.set_version_flag("--version", version_text, "Print version, build and device support");
  AddFlags(app, result.config);
  AddSecurityFlags(app, result.config);
  AddMemoryFlags(app, result.config);
  AddLedgerFlags(app, result.config);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    return CommandLine{CommandLine::Action::kPrint, app.help(), {}};
  } catch (const CLI::CallForVersion&) {
    return CommandLine{CommandLine::Action::kPrint, version_text + "\n", {}};
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(absl::StrCat(error.what(), "; see --help"));
  }
  LIFT_RETURN_IF_ERROR(result.config.Validate());
  return result;
}

}  // namespace lift
