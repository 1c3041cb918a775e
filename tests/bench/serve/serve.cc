#include "tests/bench/serve/serve.h"

#include <grpcpp/grpcpp.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "liftserve/v1/model.grpc.pb.h"
#include "server/client/transport.h"
#include "tests/bench/serve/driver.h"

namespace lift::bench {
namespace {

constexpr int kFailed = 1, kWrongInput = 2;
constexpr int64_t kStreamsPerChannel = 64;

void DeclareFlags(CLI::App& app, ServeFlags& f) {
  app.add_option("--server", f.server, "HOST:PORT of the server")->capture_default_str();
  app.add_option("--tls-ca", f.tls_ca, "Use TLS; PEM certificates that sign the server's");
  app.add_option("--api-key-file", f.api_key_file,
                 "File with the API key; else the environment variable LIFTSERVE_API_KEY");
  app.add_option("--clients", f.clients, "Closed loop: requests at a time");
  app.add_option("--rate", f.rate, "Open loop: requests a second, Poisson arrivals");
  app.add_option("--seconds", f.seconds, "How long requests are started")->capture_default_str();
  app.add_option("--requests", f.requests, "At most this many requests; 0 = no limit");
  app.add_option("--prompt-tokens", f.prompt_tokens, "Length: 64, 16:256 or exp:128")
      ->capture_default_str();
  app.add_option("--output-tokens", f.output_tokens, "Length: 64, 16:256 or exp:128")
      ->capture_default_str();
  app.add_option("--tenants", f.tenants, "Comma-separated; drawn with equal chance")
      ->delimiter(',');
  app.add_option("--variant", f.variant, "Pins the variant");
  app.add_option("--cancel-fraction", f.cancel_fraction, "Of the requests, cancelled on the way");
  app.add_option("--deadline", f.deadline_seconds, "Of every request, seconds; 0 = none");
  app.add_option("--slo-ttft", f.slo_ttft, "Goodput: seconds to the first token")
      ->capture_default_str();
  app.add_option("--slo-itl", f.slo_itl, "Goodput: a request's p99 seconds between tokens")
      ->capture_default_str();
  app.add_option("--seed", f.seed, "Same seed, same requests")->capture_default_str();
  app.add_flag("--json", f.json, "One JSON object on stdout");
  app.add_option("--plot", f.plot, "Write the latency distributions as SVG here");
}

int Fail(int code, const std::string& message) {
  std::fprintf(stderr, "lift-bench serve: %s\n", message.c_str());
  return code;
}

absl::Status Validate(const ServeFlags& f) {
  if ((f.clients > 0) == (f.rate > 0)) {
    return absl::InvalidArgumentError(
        "give either --clients N (closed loop) or --rate R (open loop)");
  }
  if (!(f.seconds > 0) || !(f.cancel_fraction >= 0 && f.cancel_fraction <= 1) || f.requests < 0 ||
      !(f.deadline_seconds >= 0)) {
    return absl::InvalidArgumentError(
        "--seconds must be above 0, --cancel-fraction from 0 to 1, --requests and --deadline not "
        "negative");
  }
  return absl::OkStatus();
}

int Run(const ServeFlags& flags) {
  if (const auto status = Validate(flags); !status.ok()) {
    return Fail(kWrongInput, std::string(status.message()));
  }
  client::ClientOptions options;
  options.server = flags.server;
  options.tls_ca = flags.tls_ca;
  options.api_key_file = flags.api_key_file;
  const auto key = client::ReadApiKey(options);
  if (!key.ok()) return Fail(kWrongInput, std::string(key.status().message()));
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  for (int64_t i = 0;
       i < std::max<int64_t>(1, (flags.clients + kStreamsPerChannel - 1) / kStreamsPerChannel);
       ++i) {
    auto channel = client::Connect(options);
    if (!channel.ok()) return Fail(kWrongInput, std::string(channel.status().message()));
    channels.push_back(*std::move(channel));
  }
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
  if (!key->empty()) context.AddMetadata("authorization", absl::StrCat("Bearer ", *key));
  liftserve::v1::ListModelsResponse models;
  const auto models_stub = liftserve::v1::ModelService::NewStub(channels[0]);
  const grpc::Status status = models_stub->ListModels(&context, {}, &models);
  if (!status.ok() || models.models().empty()) {
    return Fail(kFailed, absl::StrCat(flags.server, ": ", status.error_message()));
  }
  auto workload =
      Workload::Make(flags, models.models(0).vocab_size(), models.models(0).max_context());
  if (!workload.ok()) return Fail(kWrongInput, std::string(workload.status().message()));
  const DriveResult result = Drive(flags, *std::move(workload), channels, *key);
  const nlohmann::json summary = Summarize(flags, result.outcomes, result.elapsed_seconds);
  if (!flags.plot.empty()) {
    std::ofstream out(flags.plot);
    if (!(out << SummaryPlot(result.outcomes)).flush()) {
      return Fail(kWrongInput, flags.plot + " cannot be written");
    }
  }
  std::printf("%s", flags.json ? (summary.dump(2) + "\n").c_str() : SummaryTable(summary).c_str());
  return summary.at("finished").get<int64_t>() > 0 ? 0 : kFailed;
}

}  // namespace

int RunServe(int argc, char** argv) {
  CLI::App app{
      "Puts load on a running lift-server over gRPC and prints latencies, goodput and errors.\n"
      "Example: lift-bench serve --server 127.0.0.1:8431 --rate 5 --seconds 30 --prompt-tokens "
      "exp:128",
      "lift-bench serve"};
  ServeFlags flags;
  DeclareFlags(app, flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kWrongInput;
  }
  return Run(flags);
}

}  // namespace lift::bench
