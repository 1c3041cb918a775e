#include "server/metrics/usage_totals.h"

namespace lift {

UsageCell& UsageTotals::CellOf(const ModelInfo& model, const std::string& tenant, int variant) {
  auto it = cells_.find(tenant);
  if (it == cells_.end()) {
    const bool ours = tenant.starts_with("__");
    it = cells_.try_emplace(ours || cells_.size() < max_tenants_ ? tenant : kOtherTenant).first;
  }
  const bool named = variant >= 0 && static_cast<size_t>(variant) < model.variants.size();
  if (!named) return it->second[""];
  const VariantInfo& info = model.variants[static_cast<size_t>(variant)];
  UsageCell& cell = it->second[info.name];
  cell.lambda = info.lambda;
  return cell;
}

void UsageTotals::AddCharges(const ModelInfo& model,
                             std::span<const EngineObserver::Charge> charges) {
  std::lock_guard lock(mutex_);
  for (const auto& charge : charges) {
    UsageCell& cell = CellOf(model, charge.tenant, charge.variant);
    (charge.kv ? cell.kv_byte_us : cell.weight_byte_us) += charge.byte_us;
    total_byte_us_ += charge.byte_us;
  }
}

unsigned __int128 UsageTotals::total_byte_us() const {
  std::lock_guard lock(mutex_);
  return total_byte_us_;
}

void UsageTotals::AddFinished(const ModelInfo& model, const std::string& tenant, int variant,
                              const RequestUsage& usage) {
  std::lock_guard lock(mutex_);
  UsageCell& cell = CellOf(model, tenant, variant);
  ++cell.requests;
  cell.prompt_tokens += static_cast<uint64_t>(usage.prompt_tokens);
  cell.generated_tokens += static_cast<uint64_t>(usage.generated_tokens);
}

std::map<UsageTotals::Key, UsageCell> UsageTotals::Snapshot() const {
  std::lock_guard lock(mutex_);
  std::map<Key, UsageCell> result;
  for (const auto& [tenant, variants] : cells_) {
    for (const auto& [variant, cell] : variants) result.emplace(Key{tenant, variant}, cell);
  }
  return result;
}

}  // namespace lift
