// What came back -> figures.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/bench/serve/workload.h"

namespace lift::bench {

// One request that was sent. Seconds.
struct Outcome {
  std::string tenant;
  std::string error;  // code name; empty = ended well
  bool cancelled = false;
  int64_t prompt_tokens = 0, asked_tokens = 0, tokens = 0;
  double ttft = 0, total = 0;
  std::vector<double> gaps;  // per message, divided by its tokens
};

// Nearest rank; 0 for nothing. Sorts `values`.
double Percentile(std::vector<double>& values, double percent);
// Jain's index of the values: 1 = all equal, 1/n = one has everything.
double JainIndex(const std::vector<double>& values);

nlohmann::json Summarize(const ServeFlags& flags, const std::vector<Outcome>& outcomes,
                         double elapsed_seconds);
std::string SummaryTable(const nlohmann::json& summary);
// Cumulative distributions of TTFT, inter-token and end-to-end latency on a logarithmic axis.
std::string SummaryPlot(const std::vector<Outcome>& outcomes);

}  // namespace lift::bench
