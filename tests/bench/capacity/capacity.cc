#include "tests/bench/capacity/capacity.h"

#include <cstdio>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

namespace lift::bench {
namespace {

constexpr int kWorkFailed = 1, kWrongInput = 2;

constexpr const char* kAssumptions[] = {
    "arrivals are Poisson at every replica, lengths are independent of each other and of the rate",
    "a step costs the decoding of its batch plus the reading of its prompt tokens, as measured "
    "apart; between measured sizes linear",
    "first come, first served; no prefix cache, no speculation, no preemption, state never runs "
    "out",
    "one variant serves everything; one that is finer costs more bytes a token",
    "replicas are alike, the network is free, none fails: add spares for failures and updates",
};

int Fail(int code, const std::string& message) {
  std::fprintf(stderr, "lift-bench capacity: %s\n", message.c_str());
  return code;
}

nlohmann::json ToJson(const Plan& plan) {
  return {{"requests_per_second", plan.rate},
          {"replicas", plan.replicas},
          {"dollars_per_hour", plan.dollars_hour},
          {"dollars_per_million_requests", plan.dollars_million},
          {"gib_hours_per_hour", plan.gib_hours_hour},
          {"gib_hours_per_million_requests", plan.gib_hours_million},
          {"replica",
           {{"requests_per_second", plan.each.rate},
            {"utilization", plan.each.utilization},
            {"mean_in_system", plan.each.mean_in_system},
            {"ttft_p50_seconds", plan.each.ttft_p50},
            {"ttft_p99_seconds", plan.each.ttft_p99},
            {"itl_p99_seconds", plan.each.itl_p99},
            {"mean_tokens_held", plan.each.mean_tokens_held},
            {"most_tokens_held", plan.each.most_tokens_held}}}};
}

void PrintTable(double highest, const std::vector<Plan>& plans) {
  std::printf("one replica takes %.4g requests/s within the objective\n\n", highest);
  std::printf("%10s %10s %8s %10s %10s %10s %12s %12s %12s %12s\n", "requests/s", "replicas",
              "busy", "TTFT p50", "TTFT p99", "ITL p99", "$/hour", "$/10^6", "GiB-h/hour",
              "GiB-h/10^6");
  for (const Plan& p : plans) {
    std::printf("%10.4g %10lld %7.0f%% %8.0fms %8.0fms %8.1fms %12.2f %12.2f %12.1f %12.4f\n",
                p.rate, static_cast<long long>(p.replicas), p.each.utilization * 100,
                p.each.ttft_p50 * 1e3, p.each.ttft_p99 * 1e3, p.each.itl_p99 * 1e3, p.dollars_hour,
                p.dollars_million, p.gib_hours_hour, p.gib_hours_million);
  }
  std::printf("\nAssumptions:\n");
  for (const char* line : kAssumptions) std::printf("- %s\n", line);
}

}  // namespace

CapacityCommand::CapacityCommand(CLI::App& app) {
  command_ = app.add_subcommand(
      "capacity",
      "Replicas, money and memory for a rate of requests, by simulating one replica with step "
      "costs\nthat lift-bench measured");
  command_->add_option("--steps", steps_, "what lift-bench --json wrote, with several --batch")
      ->required()
      ->check(CLI::ExistingFile);
  command_->add_option("--variant", variant_, "whose decode points count")->required();
  command_->add_option("--rate", rates_, "requests a second, all replicas together")
      ->delimiter(',')
      ->check(CLI::Range(1e-3, 1e9))
      ->capture_default_str();
  const char* lengths = "64, 16:256 (uniform) or exp:128 (exponential)";
  command_->add_option("--prompt-tokens", prompt_, lengths)->capture_default_str();
  command_->add_option("--output-tokens", output_, lengths)->capture_default_str();
  command_->add_option("--slo-ttft", objective_.ttft, "seconds, 99th percentile")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command_->add_option("--slo-itl", objective_.itl, "seconds, 99th percentile")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command_->add_option("--max-batch", replica_.max_batch, "as lift-server's")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command_->add_option("--prefill-chunk", replica_.prefill_chunk, "as lift-server's")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  command_->add_option("--replica-hour", price_.replica_hour, "dollars for an hour of a replica")
      ->check(CLI::NonNegativeNumber);
  command_
      ->add_option("--weight-bytes", price_.weight_bytes,
                   "resident weights of a replica (lift-client models, residentBytes)")
      ->check(CLI::NonNegativeNumber);
  command_
      ->add_option("--state-token-bytes", price_.state_token_bytes,
                   "state of a token (liftserve_kv_cache_bytes_per_token)")
      ->check(CLI::NonNegativeNumber);
  command_->add_option("--requests", requests_, "simulated for each figure")
      ->check(CLI::Range(100, 10000000))
      ->capture_default_str();
  command_->add_option("--seed", seed_)->capture_default_str();
  command_->add_flag("--json", json_, "print one JSON object on stdout");
}

int CapacityCommand::Run() const {
  const auto prompt = LengthDistribution::Parse(prompt_);
  const auto output = LengthDistribution::Parse(output_);
  for (const auto* lengths : {&prompt, &output}) {
    if (!lengths->ok()) return Fail(kWrongInput, std::string(lengths->status().message()));
  }
  const Demand demand{*prompt, *output, requests_, seed_};
  std::ifstream in(steps_);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  std::mt19937_64 random(seed_);
  int64_t context = 0;  // in the middle of a mean answer
  for (int i = 0; i < 1000; ++i) context += prompt->Draw(random) + output->Draw(random) / 2;
  const auto costs = StepCosts::FromBench(text, variant_, context / 1000);
  if (!costs.ok()) return Fail(kWrongInput, std::string(costs.status().message()));
  if (costs->largest_batch() < replica_.max_batch) {
    std::fprintf(stderr,
                 "lift-bench capacity: batches above %lld were not measured and follow the "
                 "last slope\n",
                 static_cast<long long>(costs->largest_batch()));
  }
  const double highest = HighestRate(demand, *costs, replica_, objective_);
  if (highest == 0) {
    return Fail(kWorkFailed,
                "no replica meets the objective even alone; allow more time, a coarser variant or "
                "a smaller --prefill-chunk");
  }
  std::vector<Plan> plans;
  for (const double rate : rates_) {
    plans.push_back(PlanFor(demand, *costs, replica_, price_, highest, rate));
  }
  if (!json_) {
    PrintTable(highest, plans);
    return 0;
  }
  nlohmann::json out{{"requests_per_second_per_replica", highest},
                     {"assumptions", kAssumptions},
                     {"plans", nlohmann::json::array()}};
  for (const Plan& plan : plans) out["plans"].push_back(ToJson(plan));
  std::printf("%s\n", out.dump().c_str());
  return 0;
}

}  // namespace lift::bench
