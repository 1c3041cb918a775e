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
#include <future>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu_backend.h"
#include "server/accounting/ledger_metrics.h"
#include "server/accounting/observers.h"
#include "server/accounting/request_log.h"
#include "server/accounting/server_ledger.h"
#include "server/assembly.h"
#include "server/billing/meter.h"
#include "server/config/server_config.h"
#include "server/memory/governor.h"
#include "server/metrics/admin_server.h"
#include "server/metrics/probes.h"
#include "server/metrics/scrape.h"
#include "server/metrics/vllm_aliases.h"
#include "server/rpc/rpc_server.h"
#include "server/rpc/tls.h"
#include "server/security/access.h"
#include "server/verification.h"
#include "server/watchdog.h"

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

// Resolves when a request has run to its end.
class FinishedPromise : public RequestListener {
 public:
  void OnStarted(const StartedEvent&) override {}
  void OnToken(const TokenEvent&) override {}
  void OnFinished(const FinishedEvent& event) override { promise_.set_value(event.status); }
  absl::Status Wait() { return promise_.get_future().get(); }

 private:
  std::promise<absl::Status> promise_;
};

// One token through the whole path: pages the weights in and proves that a first token is possible.
absl::Status WarmUp(Engine& engine) {
  EngineRequest request;
  request.tenant = kOverheadTenant;
  request.prompt = {0};
  request.stopping.max_new_tokens = 1;
  request.stopping.ignore_eos = true;
  auto listener = std::make_shared<FinishedPromise>();
  LIFT_RETURN_IF_ERROR(engine.Submit(std::move(request), listener).status());
  return listener->Wait();
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
                                                         rpc::ServiceContext& services) {
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
  return rpc::RpcServer::Start(services, options);
}

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
  return Access::Open(
      config.auth_keys, Milliseconds(config.tls_reload_seconds),
      [](const std::string& line) { std::fprintf(stderr, "lift-server: %s\n", line.c_str()); });
}

// Null unless --verify background. Nothing computed from damaged weights may go on being sent, so
// the process ends at once; the ledger is written so that it loses nothing by that.
std::unique_ptr<BackgroundVerification> StartVerification(const ServerConfig& config,
                                                          const ServingModel& serving) {
  if (config.verify != "background") return nullptr;
  return std::make_unique<BackgroundVerification>(
      serving.weights, serving.kept,
      [](const absl::Status& damage) { std::_Exit(Fail(kExitFailed, damage)); });
}

// Null without --memory-schedule and --memory-pressure. What cannot be read is an error now and a
// line in the log later.
absl::StatusOr<std::unique_ptr<MemoryGovernor>> StartGovernor(const ServerConfig& config,
                                                              const ModelInfo& model,
                                                              Engine& engine,
                                                              std::function<void()> changed) {
  MemoryGovernor::Options options;
  LIFT_ASSIGN_OR_RETURN(options.schedule, MemorySchedule::Parse(config.memory_schedule));
  if (options.schedule.empty() && config.memory_pressure.empty()) return nullptr;
  if (!config.memory_pressure.empty()) {
    LIFT_RETURN_IF_ERROR(ReadPressure(config.memory_pressure).status());
  }
  options.pressure_path = config.memory_pressure;
  options.pressure.threshold = config.memory_pressure_percent;
  options.changed = std::move(changed);
  options.report = [](const std::string& line) {
    std::fprintf(stderr, "lift-server: %s\n", line.c_str());
  };
  return std::make_unique<MemoryGovernor>(engine, model, std::move(options));
}

// Null without --ledger.
absl::StatusOr<std::unique_ptr<ServerLedger>> OpenLedger(const ServerConfig& config,
                                                         const ModelInfo& model,
                                                         const UsageTotals& totals) {
  if (config.ledger.empty()) return nullptr;
  return ServerLedger::Open(
      {.path = config.ledger,
       .sync = config.ledger_sync == "full" ? LedgerSync::kFull : LedgerSync::kNormal,
       .checkpoint = Milliseconds(config.ledger_interval_seconds),
       .retention_days = config.ledger_retention_days,
       .drift_check = std::chrono::duration_cast<std::chrono::seconds>(
           Milliseconds(config.ledger_drift_check_seconds)),
       .report =
           [](const std::string& line) {
             std::fprintf(stderr, "lift-server: %s\n", line.c_str());
           }},
      model, totals);
}

int Serve(const ServerConfig& config, const BuildInfo& build, sigset_t stop_signals) {
  const bool info = config.log_level == "info";
  auto loaded = LoadServingModel(config);
  if (!loaded.ok()) return Fail(kExitWrongInput, loaded.status());
  ServingModel& serving = **loaded;
  auto access = OpenAccess(config);
  if (!access.ok()) return Fail(kExitWrongInput, access.status());
  if (info && !serving.warning.empty()) {
    std::fprintf(stderr, "lift-server: %s\n", serving.warning.c_str());
  }

  UsageTotals usage;
  Probes probes(serving.info, usage);
  auto ledger = OpenLedger(config, serving.info, usage);
  if (!ledger.ok()) return Fail(kExitWrongInput, ledger.status());
  ObserverList observers({&probes});
  EngineOptions options{.max_batch = config.max_batch,
                        .max_waiting = config.max_queue,
                        .prefill_chunk_tokens = config.prefill_chunk,
                        .speculation = config.speculate,
                        .escalation = config.escalate,
                        .swap_bytes = config.swap_mb << 20,
                        .weight_resident_bytes = serving.info.resident_bytes,
                        .observer = &observers};
  if (*ledger != nullptr) {
    observers.Add(ledger->get());
    options.acknowledge = (*ledger)->acknowledge();
    options.idle_charge = (*ledger)->charge_interval();
  }
  std::unique_ptr<RequestLog> request_log;
  if (!config.request_log.empty()) {
    auto opened = RequestLog::Open(config.request_log, serving.info);
    if (!opened.ok()) return Fail(kExitWrongInput, opened.status());
    request_log = *std::move(opened);
    observers.Add(request_log.get());
  }
  WatchedModel watched(*serving.model);
  Engine engine(watched, serving.tokenizer, options);
  rpc::ServiceContext services{
      engine, serving.tokenizer, serving.chat_template, serving.info, build,
      usage,  &observers,        MakeLimits(config),    {},           access->get(),
      {}};
  if (*ledger != nullptr) services.ledger = &(*ledger)->ledger();
  std::atomic<bool> ready{false}, stuck{false};
  ScrapeGauges gauges(probes, build, [&] { return engine.load(); });
  if (*ledger != nullptr) gauges.Add(LedgerMetrics(**ledger));
  if (config.vllm_metrics) gauges.Add(VllmAliases(probes, [&] { return engine.load(); }));
  auto admin = AdminServer::Start(
      config.admin, {.metrics = [&] { return ExpositionText(probes, gauges); },
                     .ready = [&] { return ready && !stuck && !engine.load().draining; },
                     .status_page = config.status_page,
                     .alive = [&] { return !stuck; }});
  if (!admin.ok()) return Fail(kExitWrongInput, admin.status());
  auto server = StartRpc(config, services);
  if (!server.ok()) return Fail(kExitWrongInput, server.status());

  const auto verification = StartVerification(config, serving);
  if (absl::Status status = WarmUp(engine); !status.ok()) return Fail(kExitFailed, status);
  const std::string admin_address =
      absl::StrCat(config.admin.substr(0, config.admin.rfind(':')), ":", (*admin)->port());
  ready = true;
  (*server)->SetServing(true);
  const Watchdog watchdog(watched, config.watchdog_seconds, [&](bool now) {
    stuck = now;
    (*server)->SetServing(!now && ready);
    std::fprintf(stderr, now ? "lift-server: a step takes longer than --watchdog-seconds\n"
                             : "lift-server: the step came back\n");
  });
  auto governor = StartGovernor(config, serving.info, engine, [&] {
    if (services.residency_changed) services.residency_changed();
  });
  if (!governor.ok()) return Fail(kExitWrongInput, governor.status());
  if (absl::Status status = WriteReadyFile(config.ready_file, (*server)->address(), admin_address,
                                           (*server)->health_address());
      !status.ok()) {
    return Fail(kExitWrongInput, status);
  }
  std::fprintf(stderr, "lift-server: listening on %s, admin on %s, model %s, %zu variants, %s\n",
               (*server)->address().c_str(), admin_address.c_str(), serving.info.name.c_str(),
               serving.info.variants.size(), serving.info.device_description.c_str());

  int signal_number = 0;
  sigwait(&stop_signals, &signal_number);
  ready = false;
  governor->reset();  // before what it tells of its changes goes
  if (info) {
    std::fprintf(stderr, "lift-server: %s, draining for at most %g s\n", strsignal(signal_number),
                 config.drain_seconds);
  }
  const bool drained = (*server)->Stop(Milliseconds(config.drain_seconds));
  if (info) {
    std::fprintf(
        stderr, "lift-server: %s\n",
        drained ? "all requests finished" : "the grace ran out; running requests were ended");
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
