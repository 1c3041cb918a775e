#include "server/security/quota.h"

#include <gtest/gtest.h>

#include "server/errors.h"

namespace lift {
namespace {

using namespace std::chrono_literals;

const QuotaClock::time_point kStart = QuotaClock::time_point{} + 1000s;

int64_t RetryMs(const absl::Status& status) {
  const auto payload = status.GetPayload(kRetryPayload);
  return payload ? std::stoll(std::string(*payload)) : -1;
}

TEST(TenantQuotas, NoQuotaIsNoLimit) {
  TenantQuotas quotas;
  std::vector<TenantQuotas::Lease> leases;
  for (int i = 0; i < 1000; ++i) {
    auto lease = quotas.Admit("a", {}, 1 << 20, kStart);
    ASSERT_TRUE(lease.ok());
    leases.push_back(*std::move(lease));
  }
}

TEST(TenantQuotas, ConcurrencyCountsLeasesAndTenantsApart) {
  TenantQuotas quotas;
  const Quota quota{.max_concurrent = 2};
  auto first = quotas.Admit("a", quota, 1, kStart), second = quotas.Admit("a", quota, 1, kStart);
  ASSERT_TRUE(first.ok() && second.ok());
  const auto third = quotas.Admit("a", quota, 1, kStart);
  EXPECT_EQ(third.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ErrorReason(third.status()), "TENANT_QUOTA");
  EXPECT_GT(RetryMs(third.status()), 0);
  EXPECT_TRUE(quotas.Admit("b", quota, 1, kStart).ok());
  first->Settle(1, 0, kStart);
  first->Settle(1, 0, kStart);  // twice counts once
  auto again = quotas.Admit("a", quota, 1, kStart);
  EXPECT_TRUE(again.ok());
  EXPECT_FALSE(quotas.Admit("a", quota, 1, kStart).ok());
  second = TenantQuotas::Lease();  // dropped without an end: given back too
  EXPECT_TRUE(quotas.Admit("a", quota, 1, kStart).ok());
}

// Many admitted at once cannot use more than the allowance, and the hint is exact.
TEST(TenantQuotas, TokensAreSetAsideAndTheRestComesBack) {
  TenantQuotas quotas;
  const Quota quota{.tokens_per_second = 10, .burst_seconds = 10};  // 100 saved up
  auto big = quotas.Admit("a", quota, 80, kStart);
  ASSERT_TRUE(big.ok());
  const auto refused = quotas.Admit("a", quota, 50, kStart);
  EXPECT_EQ(RetryMs(refused.status()), 3000);  // 20 left, 30 missing at 10 a second
  EXPECT_FALSE(quotas.Admit("a", quota, 50, kStart + 2900ms).ok());
  auto later = quotas.Admit("a", quota, 50, kStart + 3000ms);
  EXPECT_TRUE(later.ok());
  big->Settle(10, 0, kStart + 3000ms);  // used 10 of 80
  EXPECT_TRUE(quotas.Admit("a", quota, 70, kStart + 3000ms).ok());
}

TEST(TenantQuotas, ARequestLargerThanTheBurstIsPaidOffAfterwards) {
  TenantQuotas quotas;
  const Quota quota{.tokens_per_second = 10, .burst_seconds = 10};
  auto huge = quotas.Admit("a", quota, 1000, kStart);
  ASSERT_TRUE(huge.ok());
  huge->Settle(1000, 0, kStart + 1s);
  const auto refused = quotas.Admit("a", quota, 1, kStart + 1s);
  EXPECT_EQ(RetryMs(refused.status()), 89100);  // 890 in debt and one token more
}

TEST(TenantQuotas, MemoryDebtIsWaitedOff) {
  TenantQuotas quotas;
  const Quota quota{.byte_seconds_per_second = 100, .burst_seconds = 1};
  auto lease = quotas.Admit("a", quota, 1, kStart);
  ASSERT_TRUE(lease.ok());
  lease->Settle(1, 300, kStart);
  const auto refused = quotas.Admit("a", quota, 1, kStart);
  EXPECT_EQ(RetryMs(refused.status()), 2000);
  EXPECT_TRUE(quotas.Admit("a", quota, 1, kStart + 2001ms).ok());
}

TEST(TenantQuotas, AClockThatGoesBackGivesNothing) {
  TenantQuotas quotas;
  const Quota quota{.tokens_per_second = 10, .burst_seconds = 1};
  auto lease = quotas.Admit("a", quota, 10, kStart);
  lease->Settle(10, 0, kStart);
  EXPECT_FALSE(quotas.Admit("a", quota, 10, kStart - 500s).ok());
  EXPECT_FALSE(quotas.Admit("a", quota, 10, kStart).ok());
}

}  // namespace
}  // namespace lift
