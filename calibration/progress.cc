#include "calibration/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace lift {

Progress::Progress(std::string label, bool enabled)
    : label_(std::move(label)),
      enabled_(enabled && isatty(STDERR_FILENO) == 1),
      start_(std::chrono::steady_clock::now()),
      last_() {}

Progress::~Progress() {
  if (shown_) std::fputc('\n', stderr);
}

void Progress::Update(int64_t done, int64_t total) {
  const auto now = std::chrono::steady_clock::now();
  if (!enabled_ || total <= 0 || (done < total && now - last_ < std::chrono::milliseconds(100)))
    return;
  last_ = now;
  shown_ = true;
  const double elapsed = std::chrono::duration<double>(now - start_).count(),
               share = static_cast<double>(done) / static_cast<double>(total);
  constexpr int kWidth = 24;
  std::string bar(static_cast<size_t>(kWidth * std::min(share, 1.0)), '#');
  bar.resize(kWidth, '.');
  const double left = share > 0 ? elapsed / share - elapsed : 0;
  std::fprintf(stderr, "\r%-28s [%s] %3.0f%%  %6.1f s, %5.0f s left ", label_.c_str(), bar.c_str(),
               100 * share, elapsed, left);
  std::fflush(stderr);
}

}  // namespace lift
