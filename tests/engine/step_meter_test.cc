#include "server/engine/step_meter.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace lift {
namespace {

LiftedVariant Variant(const char* name, uint64_t planes, uint64_t bytes, bool full = false) {
  LiftedVariant v;
  v.name = name;
  v.plane_bytes = planes;
  v.bytes = bytes;
  v.full = full;
  return v;
}

std::vector<LiftedVariant> Variants() {
  return {Variant("q2", 200, 210), Variant("q4", 400, 410), Variant("full", 0, 1010, true)};
}

ByteMicros Sum(const std::vector<EngineObserver::Charge>& charges) {
  ByteMicros sum = 0;
  for (const auto& charge : charges) sum += charge.byte_us;
  return sum;
}

ByteMicros Of(const std::vector<EngineObserver::Charge>& charges, const std::string& tenant,
              bool kv) {
  ByteMicros sum = 0;
  for (const auto& charge : charges) {
    if (charge.tenant == tenant && charge.kv == kv) sum += charge.byte_us;
  }
  return sum;
}

TEST(StepMeter, RegionsAndTheirReaders) {
  const StepMeter meter(Variants(), 1500, 64);
  EXPECT_EQ(meter.resident_bytes(), 1500u + 64u);  // 10 fixed, 400 planes, 1000 source, 90 other
  const std::string a = "a", b = "b";
  RequestUsage ua, ub;
  const std::vector<StepMeter::Holder> holders = {
      {.tenant = &a, .usage = &ua, .variant = 0, .ran = true, .state_bytes = 16},
      {.tenant = &b, .usage = &ub, .variant = 2, .ran = true, .state_bytes = 8}};
  const auto charges = meter.Settle(holders, 10);
  EXPECT_EQ(ua.weight_byte_us, ByteMicros{50 + 2000});
  EXPECT_EQ(ub.weight_byte_us, ByteMicros{50 + 10000});
  EXPECT_EQ(ua.kv_byte_us, ByteMicros{160});
  EXPECT_EQ(Of(charges, kOverheadTenant, false), ByteMicros{(200 + 90) * 10});
  EXPECT_EQ(Of(charges, kOverheadTenant, true), ByteMicros{40 * 10});
  EXPECT_EQ(Of(charges, kIdleTenant, false), ByteMicros{0});
  EXPECT_EQ(Sum(charges), ByteMicros{1564} * 10);
}

TEST(StepMeter, IdleAndDeclaredBytes) {
  const StepMeter meter(Variants(), 0, 64);
  EXPECT_EQ(meter.resident_bytes(), 10u + 400u + 1000u + 64u);
  const auto charges = meter.Settle({}, 7);
  EXPECT_EQ(Of(charges, kIdleTenant, false), ByteMicros{1410 * 7});
  EXPECT_EQ(Of(charges, kOverheadTenant, true), ByteMicros{64 * 7});
}

TEST(StepMeter, OnlyTheSourceRan) {
  const StepMeter meter(Variants(), 0, 0);
  const std::string a = "a";
  RequestUsage usage;
  const std::vector<StepMeter::Holder> holders = {
      {.tenant = &a, .usage = &usage, .variant = 2, .ran = true}};
  const auto charges = meter.Settle(holders, 1);
  EXPECT_EQ(usage.weight_byte_us, ByteMicros{1010});
  EXPECT_EQ(Of(charges, kOverheadTenant, false), ByteMicros{400});
  EXPECT_EQ(Of(charges, kIdleTenant, false), ByteMicros{0});
}

TEST(StepMeter, ConservesAndAgreesWithUsage) {
  std::mt19937_64 rng(31);
  for (int trial = 0; trial < 20000; ++trial) {
    const StepMeter meter(Variants(), rng() % 2 == 0 ? 0 : rng() % 3000, 1000);
    const std::vector<std::string> tenants = {"a", "b", "c"};
    std::vector<RequestUsage> usage(rng() % 7);
    std::vector<StepMeter::Holder> holders;
    std::map<std::string, ByteMicros> expected;
    for (RequestUsage& u : usage) {
      holders.push_back({.tenant = &tenants[rng() % 3],
                         .usage = &u,
                         .variant = static_cast<int>(rng() % 3),
                         .ran = rng() % 3 != 0,
                         .state_bytes = rng() % 140});
    }
    const uint64_t micros = rng() % 100000;
    const auto charges = meter.Settle(holders, micros);
    ASSERT_TRUE(Sum(charges) == ByteMicros{meter.resident_bytes()} * micros);
    for (const auto& holder : holders)
      expected[*holder.tenant] += holder.usage->weight_byte_us + holder.usage->kv_byte_us;
    for (const auto& [tenant, sum] : expected) {
      ASSERT_TRUE(Of(charges, tenant, false) + Of(charges, tenant, true) == sum);
    }
  }
}

}  // namespace
}  // namespace lift
