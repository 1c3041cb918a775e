// lift-server: reads the command line, builds the parts, passes references, and turns signals into
// an orderly end.
#include <google/protobuf/stubs/logging.h>
#include <pthread.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <future>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu_backend.h"
#include "server/assembly.h"
#include "server/billing/meter.h"
#include "server/config/server_config.h"
#include "server/metrics/admin_server.h"
#include "server/metrics/probes.h"
#include "server/metrics/scrape.h"
#include "server/rpc/rpc_server.h"

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
                            const std::string& admin) {
  if (path.empty()) return absl::OkStatus();
  const std::string temporary = path + ".tmp";
  std::ofstream out(temporary);
  out << listen << "\n" << admin << "\n";
  out.close();
  if (!out || std::rename(temporary.c_str(), path.c_str()) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("--ready-file ", path, " cannot be written"));
  }
  return absl::OkStatus();
}

int Serve(const ServerConfig& config, const BuildInfo& build, sigset_t stop_signals) {
  const bool info = config.log_level == "info";
  auto loaded = LoadServingModel(config);
  if (!loaded.ok()) return Fail(kExitWrongInput, loaded.status());
  ServingModel& serving = **loaded;
  if (info && !serving.warning.empty()) {
    std::fprintf(stderr, "lift-server: %s\n", serving.warning.c_str());
  }

  UsageTotals usage;
  Probes probes(serving.info, usage);
  Engine engine(*serving.model, serving.tokenizer,
                {.max_batch = config.max_batch,
                 .max_waiting = config.max_queue,
                 .prefill_chunk_tokens = config.prefill_chunk,
                 .weight_resident_bytes = serving.info.resident_bytes,
                 .observer = &probes});
  rpc::ServiceContext services{
      engine, serving.tokenizer, serving.chat_template, serving.info, build, usage, &probes, {},
      {}};
  std::atomic<bool> ready{false};
  const ScrapeGauges gauges(probes, build, [&] { return engine.load(); });
  auto admin = AdminServer::Start(config.admin,
                                  {.metrics = [&] { return ExpositionText(probes, gauges); },
                                   .ready = [&] { return ready.load() && !engine.load().draining; },
                                   .status_page = config.status_page});
  if (!admin.ok()) return Fail(kExitWrongInput, admin.status());
  auto server = rpc::RpcServer::Start(
      services, {.listen = config.listen,
                 .max_message_bytes = static_cast<int>(config.max_message_mb << 20)});
  if (!server.ok()) return Fail(kExitWrongInput, server.status());

  if (absl::Status status = WarmUp(engine); !status.ok()) return Fail(kExitFailed, status);
  const std::string admin_address =
      absl::StrCat(config.admin.substr(0, config.admin.rfind(':')), ":", (*admin)->port());
  ready = true;
  (*server)->SetServing(true);
  if (absl::Status status = WriteReadyFile(config.ready_file, (*server)->address(), admin_address);
      !status.ok()) {
    return Fail(kExitWrongInput, status);
  }
  std::fprintf(stderr, "lift-server: listening on %s, admin on %s, model %s, %zu variants, %s\n",
               (*server)->address().c_str(), admin_address.c_str(), serving.info.name.c_str(),
               serving.info.variants.size(), serving.info.device_description.c_str());

  int signal_number = 0;
  sigwait(&stop_signals, &signal_number);
  ready = false;
  if (info) {
    std::fprintf(stderr, "lift-server: %s, draining for at most %g s\n", strsignal(signal_number),
                 config.drain_seconds);
  }
  const bool drained =
      (*server)->Stop(std::chrono::milliseconds(static_cast<int64_t>(config.drain_seconds * 1e3)));
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
  if (command->action == CommandLine::Action::kPrint) {
    std::fputs(command->text.c_str(), stdout);
    return 0;
  }
  return Serve(command->config, build, stop_signals);
}

}  // namespace
}  // namespace lift

int main(int argc, char** argv) { return lift::Main(argc, argv); }
