// lift-bench codes: what the lifting codes leave of a Gaussian source, alone and nested.
#pragma once

#include "CLI/CLI.hpp"

namespace lift::bench {

// Declares `codes` with its flags under `app`. After parsing, `selected` says whether it was asked
// for.
class CodesCommand {
 public:
  explicit CodesCommand(CLI::App& app);
  bool selected() const { return command_->parsed(); }
  // Exit code.
  int Run() const;

 private:
  CLI::App* command_;
  std::vector<std::string> chains_ = {"1", "2", "3", "4", "2,1", "2,2", "3,1", "2,1,1", "2,2,2"};
  std::string quality_ = "best";
  int beam_ = 0, threads_ = 0;
  int64_t rows_ = 64, cols_ = 1024;
  double scale_ = 1.07;
  bool json_ = false;
};

}  // namespace lift::bench
