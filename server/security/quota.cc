#include "server/security/quota.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/errors.h"

namespace lift {
namespace {

// Requests end at unknown times; a short wait is the best guess.
constexpr double kConcurrencyRetrySeconds = 0.5;

absl::Status Exceeded(const std::string& tenant, const std::string& what, double retry_seconds) {
  absl::Status status = WithReason(
      absl::ResourceExhaustedError(absl::StrCat("tenant '", tenant, "' is over its quota of ", what,
                                                "; try again later or ask for more")),
      "TENANT_QUOTA");
  status.SetPayload(kQuotaSubjectPayload, absl::Cord(absl::StrCat("tenant:", tenant)));
  return WithRetryAfter(std::move(status),
                        static_cast<int64_t>(std::ceil(std::min(retry_seconds, 3600.0) * 1e3)));
}

}  // namespace

TenantQuotas::Lease& TenantQuotas::Lease::operator=(Lease&& other) noexcept {
  if (this == &other) return *this;
  Settle(0, 0, QuotaClock::now());
  quotas_ = std::exchange(other.quotas_, nullptr);
  tenant_ = std::move(other.tenant_);
  reserved_tokens_ = other.reserved_tokens_;
  return *this;
}

void TenantQuotas::Lease::Settle(int64_t tokens, double byte_seconds, QuotaClock::time_point now) {
  TenantQuotas* quotas = std::exchange(quotas_, nullptr);
  if (quotas == nullptr) return;
  std::lock_guard lock(quotas->mutex_);
  Account& account = quotas->accounts_[tenant_];
  Accrue(account, account.quota, now);
  --account.running;
  account.tokens += static_cast<double>(reserved_tokens_ - tokens);
  account.byte_seconds -= byte_seconds;
}

void TenantQuotas::Accrue(Account& account, const Quota& quota, QuotaClock::time_point now) {
  const double token_burst = quota.tokens_per_second * quota.burst_seconds;
  const double memory_burst = quota.byte_seconds_per_second * quota.burst_seconds;
  if (std::exchange(account.fresh, false)) {
    account.tokens = token_burst;
    account.byte_seconds = memory_burst;
  } else {
    const double seconds =
        std::max(0.0, std::chrono::duration<double>(now - account.counted).count());
    account.tokens += seconds * quota.tokens_per_second;
    account.byte_seconds += seconds * quota.byte_seconds_per_second;
  }
  account.tokens = std::min(account.tokens, token_burst);
  account.byte_seconds = std::min(account.byte_seconds, memory_burst);
  account.quota = quota;
  account.counted = std::max(account.counted, now);
}

absl::StatusOr<TenantQuotas::Lease> TenantQuotas::Admit(const std::string& tenant,
                                                        const Quota& quota, int64_t tokens,
                                                        QuotaClock::time_point now) {
  std::lock_guard lock(mutex_);
  Account& account = accounts_[tenant];
  Accrue(account, quota, now);
  if (quota.max_concurrent > 0 && account.running >= quota.max_concurrent) {
    return Exceeded(tenant, absl::StrCat(quota.max_concurrent, " requests at once"),
                    kConcurrencyRetrySeconds);
  }
  if (quota.tokens_per_second > 0) {
    const double needed =
        std::min(static_cast<double>(tokens), quota.tokens_per_second * quota.burst_seconds);
    if (account.tokens < needed) {
      return Exceeded(tenant, absl::StrCat(quota.tokens_per_second, " tokens per second"),
                      (needed - account.tokens) / quota.tokens_per_second);
    }
  }
  if (quota.byte_seconds_per_second > 0 && account.byte_seconds <= 0) {
    return Exceeded(tenant, absl::StrCat(quota.byte_seconds_per_second, " byte-seconds per second"),
                    std::max(0.1, -account.byte_seconds / quota.byte_seconds_per_second));
  }
  ++account.running;
  account.tokens -= static_cast<double>(tokens);
  Lease lease;
  lease.quotas_ = this;
  lease.tenant_ = tenant;
  lease.reserved_tokens_ = tokens;
  return lease;
}

}  // namespace lift
