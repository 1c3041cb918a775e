// lift-bench capacity: replicas, money and memory for a rate of requests.
#pragma once

#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "tests/bench/capacity/plan.h"

namespace lift::bench {

// Declares `capacity` with its flags under `app`. After parsing, `selected` says whether it was
// asked for.
class CapacityCommand {
 public:
  explicit CapacityCommand(CLI::App& app);
  bool selected() const { return command_->parsed(); }
  // Exit code.
  int Run() const;

 private:
  CLI::App* command_;
  std::string steps_, variant_, prompt_ = "exp:256", output_ = "exp:128";
  std::vector<double> rates_{1e2, 1e3, 1e4, 1e5, 1e6};
  Objective objective_;
  Replica replica_;
  Price price_;
  int64_t requests_ = 4000;
  uint64_t seed_ = 1;
  bool json_ = false;
};

}  // namespace lift::bench
