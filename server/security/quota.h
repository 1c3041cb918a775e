// What each tenant may use: requests at once, tokens per second, memory on average.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "kernels/base/status.h"
#include "server/security/key_ring.h"

namespace lift {

using QuotaClock = std::chrono::steady_clock;

// Thread-safe; outlives its leases. Pure but for the time it is given.
class TenantQuotas {
 public:
  // One admitted request. Destroyed unsettled (it never ran): everything is given back.
  class Lease {
   public:
    Lease() = default;
    Lease(Lease&& other) noexcept { *this = std::move(other); }
    Lease& operator=(Lease&& other) noexcept;
    ~Lease() { Settle(0, 0, QuotaClock::now()); }
    // The request ended after this many tokens (prompt and generated) and byte-seconds; what was
    // set aside beyond it goes back. Later calls do nothing.
    void Settle(int64_t tokens, double byte_seconds, QuotaClock::time_point now);

   private:
    friend class TenantQuotas;
    TenantQuotas* quotas_ = nullptr;
    std::string tenant_;
    int64_t reserved_tokens_ = 0;
  };

  // `tokens`: prompt plus the most that may be generated; set aside until the lease is settled, so
  // that many requests admitted at once cannot overshoot. One larger than the whole burst is let in
  // when the allowance is full, and paid off afterwards. RESOURCE_EXHAUSTED (reason TENANT_QUOTA,
  // subject and retry delay as payloads). Byte-seconds are known only afterwards: a tenant in debt
  // waits until it is paid.
  absl::StatusOr<Lease> Admit(const std::string& tenant, const Quota& quota, int64_t tokens,
                              QuotaClock::time_point now);

 private:
  struct Account {
    int64_t running = 0;
    double tokens = 0, byte_seconds = 0;  // allowance left; negative = debt
    Quota quota;                          // the one these were counted with
    QuotaClock::time_point counted;
    bool fresh = true;
  };
  static void Accrue(Account& account, const Quota& quota, QuotaClock::time_point now);

  std::mutex mutex_;
  std::map<std::string, Account> accounts_;
};

}  // namespace lift
