// lift-bench constraint: what compiling a constraint and applying its masks costs on a model's
// vocabulary.
#pragma once

#include <string>
#include <vector>

#include "CLI/CLI.hpp"

namespace lift::bench {

// Declares `constraint` with its flags under `app`. After parsing, `selected` says whether it was
// asked for.
class ConstraintCommand {
 public:
  explicit ConstraintCommand(CLI::App& app);
  bool selected() const { return command_->parsed(); }
  // Exit code.
  int Run() const;

 private:
  CLI::App* command_;
  std::string model_;
  std::vector<std::string> regexes_, schemas_;
  int tokens_ = 2000;
  bool json_ = false;
};

}  // namespace lift::bench
