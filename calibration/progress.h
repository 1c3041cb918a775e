// One line of progress on a terminal (bar, rate, time left); nothing in a pipe.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace lift {

// Not thread-safe. Writes to stderr only if it is a terminal and `enabled`.
class Progress {
 public:
  Progress(std::string label, bool enabled);
  ~Progress();  // ends the line
  void Update(int64_t done, int64_t total);

 private:
  std::string label_;
  bool enabled_, shown_ = false;
  std::chrono::steady_clock::time_point start_, last_;
};

}  // namespace lift
