// The real engine and RPC layer over a model without weights: what a server costs besides its
// model. Prints its address (with --admin also that port) and runs until SIGTERM.
#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <optional>

#include "server/accounting/ledger_metrics.h"
#include "server/accounting/observers.h"
#include "server/metrics/admin_server.h"
#include "server/metrics/scrape.h"
#include "server/rpc/rpc_server.h"
#include "tests/rpc/fake_model.h"

namespace lift {
namespace {

// With state for as many tokens as one wants to have running.
class StubModel : public test::FakeModel {
 public:
  explicit StubModel(int64_t tokens) : num_blocks_(tokens / kBlockTokens) {}
  int64_t num_blocks() const override { return num_blocks_; }

 private:
  int64_t num_blocks_;
};

struct Flags {
  int64_t step_micros = 20000, max_batch = 1024, state_tokens = 65536, ledger_interval_ms = 1000;
  std::string listen = "127.0.0.1:0", ledger, admin;
  bool no_accounting = false;
};

sigset_t BlockStopSignals() {
  sigset_t stop;
  sigemptyset(&stop);
  sigaddset(&stop, SIGTERM);
  sigaddset(&stop, SIGINT);
  pthread_sigmask(SIG_BLOCK, &stop, nullptr);
  return stop;
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "stub-server: %s\n", std::string(status.message()).c_str());
  return 1;
}

int Serve(const Flags& flags, const sigset_t& stop) {
  StubModel model(flags.state_tokens);
  model.step_micros = flags.step_micros;
  const auto tokenizer = Tokenizer::Create(test::ByteTokenizerSpec());
  if (!tokenizer.ok()) return Fail(tokenizer.status());
  ModelInfo info = test::InfoOf(model, "stub");
  info.state_bytes = static_cast<uint64_t>(model.num_blocks() * model.bytes_per_block());
  const BuildInfo build{.version = "stub", .build_type = "stub"};
  UsageTotals usage;
  Probes probes(usage);
  ModelProbes model_probes(probes, info);
  ObserverList observers({});
  if (!flags.no_accounting) observers.Add(&model_probes);
  EngineOptions options{.max_batch = flags.max_batch, .max_waiting = 4096};
  options.observer = &observers;
  std::unique_ptr<ServerLedger> ledger;
  std::optional<ModelLedger> model_ledger;
  if (!flags.ledger.empty()) {
    ServerLedger::Options ledger_options;
    ledger_options.path = flags.ledger;
    ledger_options.checkpoint = std::chrono::milliseconds(flags.ledger_interval_ms);
    auto opened = ServerLedger::Open(ledger_options, usage);
    if (!opened.ok()) return Fail(opened.status());
    ledger = *std::move(opened);
    observers.Add(&model_ledger.emplace(*ledger, info));
    options.acknowledge = ledger->acknowledge();
    options.idle_charge = ledger->charge_interval();
  }
  Engine engine(model, *tokenizer, options);
  rpc::SharedServices shared{build, usage};
  rpc::ModelSlot slot(shared, rpc::ServicesPtr(new rpc::ServiceContext{engine, *tokenizer, nullptr,
                                                                       info, shared, &observers}));
  ScrapeGauges gauges(probes, build, OneModel(info, [&] { return engine.load(); }));
  if (ledger != nullptr) gauges.Add(LedgerMetrics(*ledger));
  std::unique_ptr<AdminServer> admin;
  if (!flags.admin.empty()) {
    auto started = AdminServer::Start(
        flags.admin,
        {.metrics = [&] { return ExpositionText(probes, gauges); }, .ready = [] { return true; }});
    if (!started.ok()) return Fail(started.status());
    admin = *std::move(started);
  }
  auto server = rpc::RpcServer::Start(slot, {.listen = flags.listen});
  if (!server.ok()) return Fail(server.status());
  (*server)->SetServing(true);
  std::printf("%s\n", (*server)->address().c_str());
  if (admin != nullptr) std::printf("%d\n", admin->port());
  std::fflush(stdout);
  int signal_number = 0;
  sigwait(&stop, &signal_number);
  (*server)->Stop(std::chrono::milliseconds(100));
  return 0;
}

}  // namespace
}  // namespace lift

int main(int argc, char** argv) {
  CLI::App app{"Serves a stub model whose step only sleeps", "stub-server"};
  lift::Flags flags;
  app.add_option("--step-micros", flags.step_micros, "Length of a step")->capture_default_str();
  app.add_option("--max-batch", flags.max_batch, "Sequences in a step")->capture_default_str();
  app.add_option("--state-tokens", flags.state_tokens,
                 "Tokens of all sequences that state has room for")
      ->check(CLI::Range(4096, 1 << 24))
      ->capture_default_str();
  app.add_option("--listen", flags.listen, "HOST:PORT")->capture_default_str();
  app.add_option("--ledger", flags.ledger, "Keep a ledger in this file");
  app.add_option("--ledger-interval-ms", flags.ledger_interval_ms, "Between its checkpoints")
      ->capture_default_str();
  app.add_option("--admin", flags.admin, "HOST:PORT of /metrics");
  app.add_flag("--no-accounting", flags.no_accounting,
               "Without probes and account, to compare with");
  CLI11_PARSE(app, argc, argv);
  const sigset_t stop = lift::BlockStopSignals();
  return lift::Serve(flags, stop);
}
