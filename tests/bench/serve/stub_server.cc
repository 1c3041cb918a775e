// The real engine and RPC layer over a model without weights: what a server costs besides its
// model. Prints its address and runs until SIGTERM.
#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>

#include "server/metrics/probes.h"
#include "server/rpc/rpc_server.h"
#include "tests/rpc/fake_model.h"

int main(int argc, char** argv) {
  CLI::App app{"Serves a stub model whose step only sleeps", "stub-server"};
  int64_t step_micros = 20000, max_batch = 1024;
  std::string listen = "127.0.0.1:0";
  app.add_option("--step-micros", step_micros, "Length of a step")->capture_default_str();
  app.add_option("--max-batch", max_batch, "Sequences in a step")->capture_default_str();
  app.add_option("--listen", listen, "HOST:PORT")->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  sigset_t stop;
  sigemptyset(&stop);
  sigaddset(&stop, SIGTERM);
  sigaddset(&stop, SIGINT);
  pthread_sigmask(SIG_BLOCK, &stop, nullptr);

  using namespace lift;
  test::FakeModel model;
  model.step_micros = step_micros;
  const auto tokenizer = Tokenizer::Create(test::ByteTokenizerSpec());
  if (!tokenizer.ok()) return 1;
  ModelInfo info;
  info.name = "stub";
  info.max_context = model.max_context();
  info.vocab_size = model.vocab_size();
  for (const LiftedVariant& v : model.variants()) {
    info.variants.push_back({.name = v.name, .lambda = v.lambda, .bytes = v.bytes});
    info.resident_bytes = v.bytes;
  }
  const BuildInfo build{.version = "stub", .build_type = "stub"};
  UsageTotals usage;
  Probes probes(info, usage);
  Engine engine(model, *tokenizer,
                {.max_batch = max_batch, .max_waiting = 4096, .observer = &probes});
  rpc::ServiceContext services{engine, *tokenizer, nullptr, info, build, usage, &probes};
  auto server = rpc::RpcServer::Start(services, {.listen = listen});
  if (!server.ok()) {
    std::fprintf(stderr, "%s\n", std::string(server.status().message()).c_str());
    return 1;
  }
  (*server)->SetServing(true);
  std::printf("%s\n", (*server)->address().c_str());
  std::fflush(stdout);
  int signal_number = 0;
  sigwait(&stop, &signal_number);
  (*server)->Stop(std::chrono::milliseconds(100));
  return 0;
}
