#include "server/engine/step_meter.h"

#include <algorithm>

namespace lift {
namespace {

void Add(const MeterSplit& part, MeterSplit& sum) {
  sum.shares.resize(part.shares.size());
  for (size_t i = 0; i < part.shares.size(); ++i) {
    sum.shares[i].weight += part.shares[i].weight;
    sum.shares[i].kv += part.shares[i].kv;
  }
  sum.idle_weight += part.idle_weight;
  sum.overhead_weight += part.overhead_weight;
  sum.overhead_kv += part.overhead_kv;
}

}  // namespace

StepMeter::StepMeter(std::span<const LiftedVariant> variants, uint64_t weight_resident_bytes,
                     uint64_t state_resident_bytes)
    : variants_(variants.begin(), variants.end()), state_(state_resident_bytes) {
  bool lifted = false;
  for (const LiftedVariant& v : variants_) {
    if (v.full) continue;
    const uint64_t fixed = v.bytes > v.plane_bytes ? v.bytes - v.plane_bytes : 0;
    fixed_ = lifted ? std::min(fixed_, fixed) : fixed;
    planes_ = std::max(planes_, v.plane_bytes);
    lifted = true;
  }
  for (const LiftedVariant& v : variants_) {
    if (v.full) source_ = v.bytes > fixed_ ? v.bytes - fixed_ : 0;
  }
  all_planes_ = planes_;
  all_source_ = source_;
  if (weight_resident_bytes == 0) return;
  fixed_ = std::min(fixed_, weight_resident_bytes);
  planes_ = std::min(planes_, weight_resident_bytes - fixed_);
  source_ = std::min(source_, weight_resident_bytes - fixed_ - planes_);
  other_ = weight_resident_bytes - fixed_ - planes_ - source_;
  all_planes_ = planes_;
  all_source_ = source_;
}

void StepMeter::Keep(int variants) {
  planes_ = source_ = 0;
  for (const LiftedVariant& v : std::span(variants_).first(static_cast<size_t>(variants))) {
    if (v.full) source_ = all_source_;
    planes_ = std::max(planes_, std::min(v.plane_bytes, all_planes_));
  }
}

// Three regions with their own readers: the fixed bytes (everyone who ran), the planes, the source.
MeterSplit StepMeter::SplitWeights(std::span<const Holder> holders, uint64_t micros) const {
  std::vector<MeterSequence> everyone(holders.size()), lifted(holders.size()), full(holders.size());
  bool ran = false;
  for (size_t i = 0; i < holders.size(); ++i) {
    everyone[i].kv_bytes = holders[i].state_bytes;
    if (!holders[i].ran) continue;
    ran = true;
    const LiftedVariant& v = variants_[holders[i].variant];
    everyone[i].plane_bytes = 1;
    (v.full ? full[i] : lifted[i]).plane_bytes =
        v.full ? std::max<uint64_t>(1, source_) : v.plane_bytes;
  }
  MeterSplit sum;
  Add(SplitInterval(fixed_, 0, state_, everyone, micros), sum);
  Add(SplitInterval(0, planes_, 0, lifted, micros), sum);
  Add(SplitInterval(0, source_, 0, full, micros), sum);
  (ran ? sum.overhead_weight : sum.idle_weight) += ByteMicros{other_} * micros;
  if (ran) {  // a region nobody read while someone ran elsewhere is overhead, not idleness
    sum.overhead_weight += sum.idle_weight;
    sum.idle_weight = 0;
  }
  return sum;
}

std::vector<EngineObserver::Charge> StepMeter::Settle(std::span<const Holder> holders,
                                                      uint64_t micros) const {
  const MeterSplit split = SplitWeights(holders, micros);
  std::vector<EngineObserver::Charge> charges;
  charges.reserve(2 * holders.size() + 3);
  const auto add = [&](const std::string& tenant, int variant, bool kv, ByteMicros byte_us,
                       uint64_t sequence) {
    if (byte_us > 0) charges.push_back({tenant, variant, kv, byte_us, sequence});
  };
  for (size_t i = 0; i < holders.size(); ++i) {
    const Holder& holder = holders[i];
    holder.usage->weight_byte_us += split.shares[i].weight;
    holder.usage->kv_byte_us += split.shares[i].kv;
    add(*holder.tenant, holder.variant, false, split.shares[i].weight, holder.sequence);
    add(*holder.tenant, holder.variant, true, split.shares[i].kv, holder.sequence);
  }
  add(kIdleTenant, -1, false, split.idle_weight, 0);
  add(kOverheadTenant, -1, false, split.overhead_weight, 0);
  add(kOverheadTenant, -1, true, split.overhead_kv, 0);
  return charges;
}

}  // namespace lift
