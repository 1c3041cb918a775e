// The simulator against queues whose answer is known, and what must hold of every run.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/bench/capacity/plan.h"

namespace lift::bench {
namespace {

// Decoding takes `seconds` a step whatever the batch is; prompts are free but for their step.
StepCosts Constant(double seconds) { return StepCosts({{1, seconds}}, {{1, 0.0}}); }
// As above for at most `largest` sequences: constant up to the largest batch.
StepCosts ConstantUpTo(double seconds, double largest) {
  return StepCosts({{1, seconds}, {largest, seconds}}, {{1, 0.0}, {2, 0.0}});
}

double MeanWait(const Simulation& run) {
  double sum = 0;
  for (const SimulatedRequest& r : run.requests) sum += r.admitted - r.arrival;
  return sum / static_cast<double>(run.requests.size());
}

// A request of one prompt token and n + 1 answer tokens holds its place for n decode steps.
std::vector<Arrival> Poisson(double rate, double mean_steps, int count) {
  std::mt19937_64 random(3);
  std::exponential_distribution<double> gap(rate), steps(1 / mean_steps);
  std::vector<Arrival> arrivals;
  double clock = 0;
  for (int i = 0; i < count; ++i) {
    clock += gap(random);
    arrivals.push_back({clock, 1, 1 + std::max<int64_t>(1, std::llround(steps(random)))});
  }
  return arrivals;
}

// Mean wait in a queue with `servers` of rate `mu` each.
double ErlangWait(double lambda, double mu, int servers) {
  const double load = lambda / mu, c = servers;
  double term = 1, sum = 1;  // load^k / k!
  for (int k = 1; k < servers; ++k) sum += term *= load / k;
  const double last = term * load / c * c / (c - load);
  return last / (sum + last) / (c * mu - lambda);
}

TEST(CapacityQueue, RegularArrivalsBelowCapacityNeverWait) {  // D/D/1
  std::vector<Arrival> arrivals;
  for (int i = 0; i < 1000; ++i) arrivals.push_back({i * 1.0, 1, 10});
  const Simulation run = Simulate(arrivals, Constant(0.1), {.max_batch = 1});
  for (const SimulatedRequest& r : run.requests) {
    ASSERT_DOUBLE_EQ(r.admitted, r.arrival);
    ASSERT_NEAR(r.end - r.arrival, 0.9, 1e-9);
  }
  EXPECT_NEAR(run.busy_seconds, 900, 1e-6);
}

TEST(CapacityQueue, RegularArrivalsAboveCapacityWaitLonger) {  // D/D/1 overloaded
  std::vector<Arrival> arrivals;
  for (int i = 0; i < 1000; ++i) arrivals.push_back({i * 0.5, 1, 11});
  const Simulation run = Simulate(arrivals, Constant(0.1), {.max_batch = 1});
  for (size_t i = 0; i < arrivals.size(); ++i) {
    const SimulatedRequest& r = run.requests[i];
    ASSERT_NEAR(r.admitted - r.arrival, 0.5 * static_cast<double>(i), 1e-6);
  }
}

TEST(CapacityQueue, OneAtATimeWaitsAsErlangSays) {  // M/M/1
  const double mean_steps = 100, step = 0.01, lambda = 0.5;
  const auto run = Simulate(Poisson(lambda, mean_steps, 100000), Constant(step), {.max_batch = 1});
  const double expected = ErlangWait(lambda, 1 / (mean_steps * step), 1);
  EXPECT_NEAR(expected, 1, 1e-9);
  EXPECT_NEAR(MeanWait(run) / expected, 1, 0.05);
}

// Places are given and returned between steps, so a request also waits for the step in progress,
// half a step on average; how long it holds its place is taken from the run.
TEST(CapacityQueue, ABatchOfConstantStepsWaitsAsErlangSays) {  // M/M/c
  const double mean_steps = 200, step = 0.005;
  for (const int servers : {3, 8}) {
    const double lambda = 0.75 * servers;
    const auto run = Simulate(Poisson(lambda, mean_steps, 100000), ConstantUpTo(step, servers),
                              {.max_batch = servers});
    double served = 0;
    for (const SimulatedRequest& r : run.requests) served += r.end - r.admitted;
    const double mean = served / static_cast<double>(run.requests.size());
    EXPECT_NEAR(mean / (mean_steps * step), 1, 0.02);
    const double last = run.requests.back().arrival;
    const double rate = static_cast<double>(run.requests.size()) / last;
    const double expected = ErlangWait(rate, 1 / mean, servers) + step / 2;
    EXPECT_NEAR(MeanWait(run) / expected, 1, 0.05) << servers;
  }
}

TEST(CapacitySimulation, NothingIsLostOrMadeUp) {
  std::mt19937_64 random(5);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<Arrival> arrivals;
    double clock = 0;
    int64_t prompts = 0, outputs = 0;
    for (int i = 0; i < 200; ++i) {
      clock += std::exponential_distribution<double>(20)(random);
      arrivals.push_back({clock, 1 + static_cast<int64_t>(random() % 700),
                          1 + static_cast<int64_t>(random() % 40)});
      prompts += arrivals.back().prompt_tokens;
      outputs += arrivals.back().output_tokens;
    }
    const Replica replica{1 + static_cast<int64_t>(random() % 16),
                          1 + static_cast<int64_t>(random() % 300)};
    const StepCosts costs({{1, 0.01}, {8, 0.02}}, {{1, 0.001}, {256, 0.1}});
    const Simulation run = Simulate(arrivals, costs, replica);
    ASSERT_EQ(run.read_tokens, prompts);
    ASSERT_EQ(run.generated_tokens, outputs);
    ASSERT_LE(run.busy_seconds, run.seconds * (1 + 1e-12));
    double admitted = 0;
    for (const SimulatedRequest& r : run.requests) {
      ASSERT_LE(r.arrival, r.admitted);
      ASSERT_LT(r.admitted, r.first_token);
      ASSERT_LE(r.first_token, r.end);
      ASSERT_LE(admitted, r.admitted) << "overtaken";
      admitted = r.admitted;
    }
    // Little's law over the whole run, exactly: the same area counted by time and by request.
    std::vector<std::pair<double, int>> events;
    for (const SimulatedRequest& r : run.requests) {
      events.push_back({r.arrival, 1});
      events.push_back({r.end, -1});
    }
    std::sort(events.begin(), events.end());
    double area = 0, last = 0;
    int present = 0;
    for (const auto& [at, change] : events) {
      area += present * (at - last);
      present += change;
      last = at;
    }
    ASSERT_NEAR(area, run.sequence_seconds, 1e-6 * area);
  }
}

TEST(CapacityCosts, InterpolateWhatWasMeasured) {
  const std::string text = R"({"decode": [
      {"variant": "q3", "batch": 1, "context": 128, "tokens_per_second": 100},
      {"variant": "q3", "batch": 4, "context": 128, "tokens_per_second": 200},
      {"variant": "q3", "batch": 1, "context": 1024, "tokens_per_second": 50},
      {"variant": "q6", "batch": 1, "context": 128, "tokens_per_second": 10}],
    "prefill": [{"tokens": 100, "tokens_per_second": 1000}, {"tokens": 200, "tokens_per_second": 2000}]})";
  const auto costs = StepCosts::FromBench(text, "q3", 100);
  ASSERT_TRUE(costs.ok()) << costs.status();
  EXPECT_DOUBLE_EQ(costs->Seconds(1, 0), 0.01);
  EXPECT_DOUBLE_EQ(costs->Seconds(4, 0), 0.02);
  EXPECT_DOUBLE_EQ(costs->Seconds(2, 0), 0.01 + 0.01 / 3);
  EXPECT_DOUBLE_EQ(costs->Seconds(7, 0), 0.03);
  EXPECT_DOUBLE_EQ(costs->Seconds(1, 150), 0.11);
  EXPECT_DOUBLE_EQ(costs->Seconds(0, 10), 0.1);
  EXPECT_DOUBLE_EQ(StepCosts::FromBench(text, "q3", 129)->Seconds(1, 0), 0.02);
  EXPECT_DOUBLE_EQ(StepCosts::FromBench(text, "q3", 9999)->Seconds(1, 0), 0.02);
  for (const char* bad :
       {"", "{}", "[]", R"({"decode": 3, "prefill": []})", R"({"decode": [], "prefill": []})"}) {
    EXPECT_FALSE(StepCosts::FromBench(bad, "q3", 100).ok()) << bad;
  }
  EXPECT_THAT(std::string(StepCosts::FromBench(text, "q9", 100).status().message()),
              testing::HasSubstr("'q9'"));
}

TEST(CapacityPlan, MoreLoadNeedsMoreReplicasAndMeetsTheObjective) {
  const StepCosts costs({{1, 0.01}, {32, 0.04}}, {{1, 0.001}, {256, 0.1}});
  const Demand demand{*LengthDistribution::Parse("exp:100"), *LengthDistribution::Parse("exp:50"),
                      2000, 1};
  const Objective objective{.ttft = 1, .itl = 0.2};
  const Price price{.replica_hour = 2, .weight_bytes = 1073741824.0, .state_token_bytes = 1024};
  const double highest = HighestRate(demand, costs, {}, objective);
  ASSERT_GT(highest, 0.1);
  EXPECT_GT(Measure(demand, costs, {}, highest * 1.05).ttft_p99, objective.ttft * 0.5);
  int64_t last = 0;
  for (const double rate : {1e2, 1e3, 1e6}) {
    const Plan plan = PlanFor(demand, costs, {}, price, highest, rate);
    EXPECT_GT(plan.replicas, last);
    last = plan.replicas;
    EXPECT_LE(plan.each.ttft_p99, objective.ttft);
    EXPECT_LE(plan.each.itl_p99, objective.itl);
    EXPECT_DOUBLE_EQ(plan.dollars_hour, 2.0 * static_cast<double>(plan.replicas));
    EXPECT_NEAR(plan.dollars_million * rate * 3600 / 1e6, plan.dollars_hour, 1e-6);
    EXPECT_GT(plan.gib_hours_hour, static_cast<double>(plan.replicas));
  }
  EXPECT_EQ(HighestRate(demand, costs, {}, {.ttft = 1e-6, .itl = 1}), 0);
}

}  // namespace
}  // namespace lift::bench
