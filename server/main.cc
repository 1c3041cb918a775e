// lift-server: reads the command line, builds the parts, passes references, and turns signals into
// an orderly end.
#include <google/protobuf/stubs/logging.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <mutex>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu_backend.h"
#include "server/accounting/ledger_metrics.h"
#include "server/accounting/request_log.h"
#include "server/accounting/server_ledger.h"
#include "server/config/server_config.h"
#include "server/metrics/admin_server.h"
#include "server/metrics/probes.h"
#include "server/metrics/scrape.h"
#include "server/metrics/vllm_aliases.h"
#include "server/model_host.h"
#include "server/rpc/rpc_server.h"
#include "server/rpc/tls.h"
#include "server/security/access.h"

namespace lift {
namespace {

constexpr int kExitFailed = 1, kExitWrongInput = 2;

BuildInfo MakeBuildInfo() {
  BuildInfo build;
  build.version = LIFTSERVE_VERSION;
  build.build_type = LIFTSERVE_BUILD_TYPE;
  build.cuda_compiled = LIFTSERVE_CUDA_COMPILED;
  return build;
}

std::string VersionText(const BuildInfo& build) {
  return absl::StrCat("lift-server ", build.version, "\nbuild: ", build.build_type,
                      "\nCUDA: ", build.cuda_compiled ? "compiled in" : "not compiled in",
                      "\nCPU: ", std::string(CpuIsaName(BestCpuIsa())));
}

int Fail(int code, const absl::Status& status) {
  std::fprintf(stderr, "lift-server: %s\n", std::string(status.message()).c_str());
  return code;
}

// Blocked in every thread (call before any is started); WaitForStop takes them.
sigset_t BlockStopSignals() {
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);  // a file at its size limit is an error of that file
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  return set;
}

absl::Status WriteReadyFile(const std::string& path, const std::string& listen,
                            const std::string& admin, const std::string& health) {
  if (path.empty()) return absl::OkStatus();
  const std::string temporary = path + ".tmp";
  std::ofstream out(temporary);
  out << listen << "\n" << admin << "\n";
  if (!health.empty()) out << health << "\n";
  out.close();
  if (!out || std::rename(temporary.c_str(), path.c_str()) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("--ready-file ", path, " cannot be written"));
  }
  return absl::OkStatus();
}

// Keys and prompts pass through this process's memory; they must not end in a file.
void ForbidCoreDumps() {
  const rlimit none{0, 0};
  setrlimit(RLIMIT_CORE, &none);
  prctl(PR_SET_DUMPABLE, 0);
}

rpc::Limits MakeLimits(const ServerConfig& config) {
  rpc::Limits limits;
  limits.max_prompt_tokens = config.max_prompt_tokens;
  limits.max_answer_tokens = config.max_answer_tokens;
  return limits;
}

absl::StatusOr<std::unique_ptr<rpc::RpcServer>> StartRpc(const ServerConfig& config,
                                                         rpc::ModelSlot& slot) {
  rpc::RpcServer::Options options;
  options.listen = config.listen;
  options.max_message_bytes = static_cast<int>(config.max_message_mb << 20);
  options.health_listen = config.health_listen;
  options.keepalive_ms = static_cast<int>(config.keepalive_seconds * 1e3);
  options.max_connection_age_ms = static_cast<int>(config.max_connection_age_seconds * 1e3);
  if (config.compression == "gzip") options.compression = GRPC_COMPRESS_GZIP;
  if (config.compression == "deflate") options.compression = GRPC_COMPRESS_DEFLATE;
  LIFT_ASSIGN_OR_RETURN(options.credentials,
                        rpc::MakeServerCredentials(
                            {.cert_file = config.tls_cert,
                             .key_file = config.tls_key,
                             .client_ca_file = config.tls_client_ca,
                             .require_client_certificate = config.tls_client_auth == "require",
                             .reload_seconds = static_cast<unsigned>(config.tls_reload_seconds)}));
  return rpc::RpcServer::Start(slot, options);
}

void Say(const std::string& line) { std::fprintf(stderr, "lift-server: %s\n", line.c_str()); }

std::chrono::milliseconds Milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1e3));
}

// Null without --auth-keys.
absl::StatusOr<std::unique_ptr<Access>> OpenAccess(const ServerConfig& config) {
  if (config.auth_keys.empty()) return nullptr;
  if (config.tls_cert.empty()) {
    std::fprintf(stderr,
                 "lift-server: warning: --auth-keys without --tls-cert: keys cross the network "
                 "readable unless something in front adds TLS\n");
  }
  return Access::Open(config.auth_keys, Milliseconds(config.tls_reload_seconds), Say);
}

// Null without --ledger.
absl::StatusOr<std::unique_ptr<ServerLedger>> OpenLedger(const ServerConfig& config,
                                                         const UsageTotals& totals) {
  if (config.ledger.empty()) return nullptr;
  AuditKey audit_key;
  if (!config.audit_key_file.empty()) {
    LIFT_ASSIGN_OR_RETURN(audit_key, AuditKey::Read(config.audit_key_file));
  }
  return ServerLedger::Open(
      {.path = config.ledger,
       .sync = config.ledger_sync == "full" ? LedgerSync::kFull : LedgerSync::kNormal,
       .checkpoint = Milliseconds(config.ledger_interval_seconds),
       .retention_days = config.ledger_retention_days,
       .drift_check = std::chrono::duration_cast<std::chrono::seconds>(
           Milliseconds(config.ledger_drift_check_seconds)),
       .report = Say,
       .audit_key = std::move(audit_key)},
      totals);
}

// Null without --request-log.
absl::StatusOr<std::unique_ptr<RequestLog>> OpenRequestLog(const ServerConfig& config) {
  if (config.request_log.empty()) return nullptr;
  return RequestLog::Open(config.request_log);
}

// What health, /readyz and /healthz go by. Thread-safe.
struct Readiness {
  std::atomic<bool> ready{false};
  std::atomic<int> stuck{0};  // models whose step does not come back

  bool ok() const { return ready && stuck == 0; }
  void SetServer(rpc::RpcServer* now) {
    const std::lock_guard lock(mutex_);
    server_ = now;
  }
  void SetStuck(bool now) {
    const std::lock_guard lock(mutex_);
    stuck += now ? 1 : -1;
    if (server_ != nullptr) server_->SetServing(ok());
    Say(now ? "a step takes longer than --watchdog-seconds" : "the step came back");
  }

 private:
  std::mutex mutex_;
  rpc::RpcServer* server_ = nullptr;  // guarded by mutex_
};

int Serve(const ServerConfig& config, const BuildInfo& build, sigset_t stop_signals) {
  const bool info = config.log_level == "info";
  auto access = OpenAccess(config);
  if (!access.ok()) return Fail(kExitWrongInput, access.status());
  UsageTotals usage;
  Probes probes(usage);
  auto ledger = OpenLedger(config, usage);
  if (!ledger.ok()) return Fail(kExitWrongInput, ledger.status());
  auto request_log = OpenRequestLog(config);
  if (!request_log.ok()) return Fail(kExitWrongInput, request_log.status());

  rpc::SharedServices services{build, usage, MakeLimits(config)};
  services.access = access->get();
  if (*ledger != nullptr) services.ledger = &(*ledger)->ledger();
  Readiness readiness;
  std::mutex charging;
  ModelHost host(config, {.probes = probes,
                          .log = request_log->get(),
                          .ledger = ledger->get(),
                          .services = services,
                          .charging = charging,
                          .stuck = [&](bool now) { readiness.SetStuck(now); },
                          .report = Say});
  if (absl::Status status = host.Load(); !status.ok()) return Fail(kExitWrongInput, status);
  RunningModel& model = host.first();
  if (info && !model.warning().empty()) Say(model.warning());
  if (info) Say("CPU tuning: " + model.tuning());

  ScrapeGauges gauges(probes, build, [&] { return host.loads(); });
  if (*ledger != nullptr) gauges.Add(LedgerMetrics(**ledger));
  if (config.vllm_metrics) gauges.Add(VllmAliases(probes, [&] { return host.loads(); }));
  auto admin = AdminServer::Start(config.admin,
                                  {.metrics = [&] { return ExpositionText(probes, gauges); },
                                   .ready = [&] { return readiness.ok() && !host.load().draining; },
                                   .status_page = config.status_page,
                                   .alive = [&] { return readiness.stuck == 0; }});
  if (!admin.ok()) return Fail(kExitWrongInput, admin.status());
  auto server = StartRpc(config, host.slot());
  if (!server.ok()) return Fail(kExitWrongInput, server.status());

  model.VerifyInBackground();
  readiness.SetServer(server->get());
  const absl::Cleanup forget = [&] { readiness.SetServer(nullptr); };
  if (absl::Status status = model.WarmUp(); !status.ok()) return Fail(kExitFailed, status);
  const std::string admin_address =
      absl::StrCat(config.admin.substr(0, config.admin.rfind(':')), ":", (*admin)->port());
  const std::string listening =
      absl::StrCat("listening on ", (*server)->address(), ", admin on ", admin_address, ", model ",
                   model.info().name, ", ", model.info().variants.size(), " variants, ",
                   model.info().device_description);  // from Serve on the model may be another
  readiness.ready = true;
  (*server)->SetServing(readiness.ok());
  if (absl::Status status = host.Serve(**server); !status.ok()) {
    return Fail(kExitWrongInput, status);
  }
  if (absl::Status status = WriteReadyFile(config.ready_file, (*server)->address(), admin_address,
                                           (*server)->health_address());
      !status.ok()) {
    return Fail(kExitWrongInput, status);
  }
  Say(listening);

  int signal_number = 0;
  sigwait(&stop_signals, &signal_number);
  readiness.ready = false;
  host.Close();  // before what it tells of its changes goes
  if (info) {
    std::fprintf(stderr, "lift-server: %s, draining for at most %g s\n", strsignal(signal_number),
                 config.drain_seconds);
  }
  const bool drained = (*server)->Stop(Milliseconds(config.drain_seconds));
  if (info) {
    Say(drained ? "all requests finished" : "the grace ran out; running requests were ended");
  }
  return 0;
}

// Both libraries log what a hostile or clumsy client can provoke at will; the callers get it as a
// status, and so do we.
void SilenceLibraries() {
  google::protobuf::SetLogHandler(nullptr);
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
}

int Main(int argc, char** argv) {
  SilenceLibraries();
  const sigset_t stop_signals = BlockStopSignals();
  const BuildInfo build = MakeBuildInfo();
  const auto command = ParseCommandLine(argc, argv, VersionText(build));
  if (!command.ok()) return Fail(kExitWrongInput, command.status());
  if (!command->config.core_dumps) ForbidCoreDumps();
  if (command->action == CommandLine::Action::kPrint) {
    std::fputs(command->text.c_str(), stdout);
    return 0;
  }
  return Serve(command->config, build, stop_signals);
}

}  // namespace
}  // namespace lift

int main(int argc, char** argv) { return lift::Main(argc, argv); }
