// Charges each interval's memory x time to requests and tenants, with the billing rules of
// server/billing.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/format/lifted_file.h"
#include "server/billing/meter.h"
#include "server/engine/engine.h"

namespace lift {

// Resident weights are fixed bytes, then planes (every variant a prefix of them), then the stored
// source (read by `full` alone), then whatever else is resident, which is overhead. Engine thread
// only.
class StepMeter {
 public:
  // weight_resident_bytes 0: the sum of what the variants declare.
  StepMeter(std::span<const LiftedVariant> variants, uint64_t weight_resident_bytes,
            uint64_t state_resident_bytes);

  // One live sequence during the interval.
  struct Holder {
    const std::string* tenant = nullptr;
    RequestUsage* usage = nullptr;
    int variant = 0;  // it ran at (or, if it did not run, is decoded at)
    bool ran = false;
    uint64_t state_bytes = 0;
    uint64_t sequence = 0;
  };
  // Adds to each holder's usage and returns the charges: weights and state of each holder, then
  // idle and overhead (variant -1, sequence 0); none is zero. The charges sum to resident_bytes() *
  // micros.
  std::vector<EngineObserver::Charge> Settle(std::span<const Holder> holders,
                                             uint64_t micros) const;

  // From now on only what the first `variants` read is resident. What belongs to no variant stays.
  void Keep(int variants);

  uint64_t weight_bytes() const { return fixed_ + planes_ + source_ + other_; }
  uint64_t resident_bytes() const { return weight_bytes() + state_; }

 private:
  MeterSplit SplitWeights(std::span<const Holder> holders, uint64_t micros) const;

  std::vector<LiftedVariant> variants_;
  uint64_t fixed_ = 0, planes_ = 0, source_ = 0, other_ = 0, state_ = 0;
  uint64_t all_planes_ = 0, all_source_ = 0;  // with every variant resident
};

}  // namespace lift
