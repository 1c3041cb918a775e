#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>

#include "kernels/base/thread_pool.h"

namespace lift {
namespace {

constexpr int kUnlimited = 1 << 20;

int CoresOfQuota(double quota, double period) {
  if (!(quota > 0) || !(period > 0)) return kUnlimited;
  return static_cast<int>(std::clamp(std::ceil(quota / period), 1.0, 1.0 * kUnlimited));
}

// cgroup v2: "max 100000" or "150000 100000".
int QuotaV2(const std::string& folder) {
  std::ifstream in(folder + "/cpu.max");
  double quota = 0, period = 0;
  return in >> quota >> period ? CoresOfQuota(quota, period) : kUnlimited;
}

int QuotaV1() {
  std::ifstream quota_in("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
  std::ifstream period_in("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  double quota = 0, period = 0;
  return quota_in >> quota && period_in >> period ? CoresOfQuota(quota, period) : kUnlimited;
}

// The limit may sit on the process's own group or on any group above it.
int CgroupQuota() {
  int cores = std::min(QuotaV1(), QuotaV2("/sys/fs/cgroup"));
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    if (line.rfind("0::", 0) != 0) continue;
    for (std::string path = line.substr(3); path.size() > 1;) {
      cores = std::min(cores, QuotaV2("/sys/fs/cgroup" + path));
      path.resize(path.find_last_of('/') == std::string::npos ? 0 : path.find_last_of('/'));
    }
  }
  return cores;
}

int AffinityCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
}

}  // namespace

int AvailableCores() { return std::min(AffinityCores(), CgroupQuota()); }

}  // namespace lift
