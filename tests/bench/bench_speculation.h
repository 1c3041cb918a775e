// lift-bench speculate: what guessing ahead is worth, for every pair of a guessing and an answering
// variant.
#pragma once

#include <string>
#include <vector>

#include "CLI/CLI.hpp"

namespace lift::bench {

// Declares `speculate` with its flags under `app`. After parsing, `selected` says whether it was
// asked for.
class SpeculationCommand {
 public:
  explicit SpeculationCommand(CLI::App& app);
  bool selected() const { return command_->parsed(); }
  // Exit code.
  int Run() const;

 private:
  CLI::App* command_;
  std::string model_;
  std::vector<std::string> drafts_, targets_, prompts_;
  std::vector<int64_t> lengths_ = {4};
  int64_t tokens_ = 128, streams_ = 1;
  double temperature_ = 0;
  int threads_ = 0;
  bool json_ = false;
};

}  // namespace lift::bench
