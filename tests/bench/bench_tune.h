// lift-bench tune: measures where sums looked up in tables stop being faster than sign products,
// and stores it for the programs that compute here.
#pragma once

#include <string>

#include "CLI/CLI.hpp"

namespace lift::bench {

// Declares `tune` with its flags under `app`. After parsing, `selected` says whether it was asked
// for.
class TuneCommand {
 public:
  explicit TuneCommand(CLI::App& app);
  bool selected() const { return command_->parsed(); }
  // Exit code.
  int Run() const;

 private:
  CLI::App* command_;
  std::string isa_ = "auto", out_;
  int threads_ = 0;
  double seconds_ = 1;
  bool dry_run_ = false, json_ = false;
};

}  // namespace lift::bench
