#include "server/engine/fair_share.h"

#include <algorithm>
#include <limits>

#include "kernels/base/check.h"

namespace lift {

void FairShare::Join(const std::string& tenant) { ++accounts_[tenant].live; }

void FairShare::Leave(const std::string& tenant) {
  const auto it = accounts_.find(tenant);
  LIFT_CHECK(it != accounts_.end() && it->second.live > 0);
  if (--it->second.live == 0 && it->second.credit >= 0) accounts_.erase(it);
}

void FairShare::Charge(const std::string& tenant, double byte_us) {
  const auto it = accounts_.find(tenant);
  if (it != accounts_.end()) it->second.credit -= byte_us;
}

void FairShare::Round() {
  double best = -std::numeric_limits<double>::infinity();
  for (const auto& [tenant, account] : accounts_) {
    if (account.live > 0) best = std::max(best, account.credit);
  }
  // Nobody is active: nobody waits for what the absent owe.
  if (best == -std::numeric_limits<double>::infinity()) return accounts_.clear();
  for (auto it = accounts_.begin(); it != accounts_.end();) {
    Account& account = it->second;
    account.credit = std::min(0.0, account.credit - best);
    it = account.live == 0 && account.credit >= 0 ? accounts_.erase(it) : std::next(it);
  }
}

double FairShare::credit(const std::string& tenant) const {
  const auto it = accounts_.find(tenant);
  return it == accounts_.end() ? 0 : it->second.credit;
}

}  // namespace lift
