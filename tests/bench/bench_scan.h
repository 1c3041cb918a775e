// lift-bench scan: the selective scan of Mamba, token by token and in the matrix form of SSD.
#pragma once

#include "CLI/CLI.hpp"

namespace lift::bench {

// Declares `scan` with its flags under `app`. After parsing, `selected` says whether it was asked
// for.
class ScanCommand {
 public:
  explicit ScanCommand(CLI::App& app);
  bool selected() const { return command_->parsed(); }
  // Exit code.
  int Run() const;

 private:
  CLI::App* command_;
  int64_t tokens_ = 512, chunk_ = 64;
  double seconds_ = 1;
  bool json_ = false;
};

}  // namespace lift::bench
