// How many replicas a rate needs, and what they cost.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "tests/bench/capacity/simulate.h"
#include "tests/bench/serve/lengths.h"

namespace lift::bench {

struct Demand {
  LengthDistribution prompt, output;
  int64_t requests = 4000;  // simulated of one replica; the first tenth is not counted
  uint64_t seed = 1;
};

struct Objective {
  double ttft = 1, itl = 0.1;  // seconds that 99 of 100 stay within
};

struct Price {
  double replica_hour = 0;       // of the machine
  double weight_bytes = 0;       // a replica holds
  double state_token_bytes = 0;  // of a token's attention state
};

// What one replica does at a rate.
struct Load {
  double rate = 0;                    // requests a second
  double ttft_p50 = 0, ttft_p99 = 0;  // seconds from arrival to the first token
  double itl_p99 = 0;                 // of the steps that decoded
  double utilization = 0, mean_in_system = 0;
  double mean_tokens_held = 0;
  int64_t most_tokens_held = 0;
};

struct Plan {
  double rate = 0;
  int64_t replicas = 0;
  Load each{};                                       // at rate / replicas
  double dollars_hour = 0, dollars_million = 0;      // per hour, per 10^6 requests
  double gib_hours_hour = 0, gib_hours_million = 0;  // memory held x time
};

// Poisson arrivals at `rate`: what is left of a Poisson stream that a balancer splits at random;
// round robin is smoother, so this errs on the safe side.
std::vector<Arrival> MakeArrivals(const Demand& demand, double rate);

Load Measure(const Demand& demand, const StepCosts& costs, const Replica& replica, double rate);

// The highest rate at which one replica is within the objective, to 1 %; 0 if it never is.
double HighestRate(const Demand& demand, const StepCosts& costs, const Replica& replica,
                   const Objective& objective);

// `highest` > 0.
Plan PlanFor(const Demand& demand, const StepCosts& costs, const Replica& replica,
             const Price& price, double highest, double rate);

}  // namespace lift::bench
