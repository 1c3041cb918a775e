#include "tests/bench/capacity/plan.h"

#include <algorithm>
#include <cmath>

namespace lift::bench {
namespace {

constexpr double kGib = 1024.0 * 1024 * 1024, kHour = 3600, kMillion = 1e6;

// The smallest value that `fraction` of them stay within; 0 of none.
double Quantile(std::vector<double>& values, double fraction) {
  if (values.empty()) return 0;
  const auto rank = static_cast<size_t>(std::ceil(fraction * static_cast<double>(values.size())));
  const auto at = values.begin() + static_cast<std::ptrdiff_t>(std::max<size_t>(rank, 1) - 1);
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

bool Within(const Load& load, const Objective& objective) {
  return load.ttft_p99 <= objective.ttft && load.itl_p99 <= objective.itl;
}

}  // namespace

std::vector<Arrival> MakeArrivals(const Demand& demand, double rate) {
  std::mt19937_64 random(demand.seed);
  std::exponential_distribution<double> gap(1.0);  // the same draws at every rate
  std::vector<Arrival> arrivals(static_cast<size_t>(demand.requests));
  double clock = 0;
  for (Arrival& arrival : arrivals) {
    clock += gap(random) / rate;
    arrival = {clock, demand.prompt.Draw(random), demand.output.Draw(random)};
  }
  return arrivals;
}

Load Measure(const Demand& demand, const StepCosts& costs, const Replica& replica, double rate) {
  Simulation run = Simulate(MakeArrivals(demand, rate), costs, replica);
  Load load{.rate = rate};
  std::vector<double> waits;
  for (size_t i = run.requests.size() / 10; i < run.requests.size(); ++i) {
    waits.push_back(run.requests[i].first_token - run.requests[i].arrival);
  }
  load.ttft_p50 = Quantile(waits, 0.5);
  load.ttft_p99 = Quantile(waits, 0.99);
  load.itl_p99 = Quantile(run.steps, 0.99);
  load.utilization = run.busy_seconds / run.seconds;
  load.mean_in_system = run.sequence_seconds / run.seconds;
  load.mean_tokens_held = run.token_seconds / run.seconds;
  load.most_tokens_held = run.most_tokens_held;
  return load;
}

double HighestRate(const Demand& demand, const StepCosts& costs, const Replica& replica,
                   const Objective& objective) {
  double low = 1e-3, high = low;
  if (!Within(Measure(demand, costs, replica, low), objective)) return 0;
  while (Within(Measure(demand, costs, replica, high *= 2), objective) && high < 1e9) low = high;
  while (high / low > 1.01) {
    const double middle = std::sqrt(low * high);
    (Within(Measure(demand, costs, replica, middle), objective) ? low : high) = middle;
  }
  return low;
}

Plan PlanFor(const Demand& demand, const StepCosts& costs, const Replica& replica,
             const Price& price, double highest, double rate) {
  Plan plan{.rate = rate};
  plan.replicas = static_cast<int64_t>(std::ceil(rate / highest));
  const auto replicas = static_cast<double>(plan.replicas);
  plan.each = Measure(demand, costs, replica, rate / replicas);
  const double held = price.weight_bytes + price.state_token_bytes * plan.each.mean_tokens_held;
  plan.dollars_hour = replicas * price.replica_hour;
  plan.gib_hours_hour = replicas * held / kGib;
  plan.dollars_million = plan.dollars_hour * kMillion / (rate * kHour);
  plan.gib_hours_million = plan.gib_hours_hour * kMillion / (rate * kHour);
  return plan;
}

}  // namespace lift::bench
