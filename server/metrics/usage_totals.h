// Memory x time and tokens by tenant and variant since start-up: the one in-memory account that
// GetUsage and the metrics show.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "server/engine/engine.h"
#include "server/model_info.h"

namespace lift {

inline constexpr const char* kOtherTenant = "__other__";

struct UsageCell {
  double lambda = 0;  // of the variant
  unsigned __int128 weight_byte_us = 0, kv_byte_us = 0;
  uint64_t requests = 0, prompt_tokens = 0, generated_tokens = 0;
};

inline double ByteSeconds(unsigned __int128 byte_us) { return static_cast<double>(byte_us) * 1e-6; }

// Thread-safe. Past `max_tenants` distinct tenants, new ones are counted as "__other__": a client
// that invents tenants cannot grow the process.
class UsageTotals {
 public:
  // Tenant, variant name; "" = memory that belongs to no variant.
  using Key = std::pair<std::string, std::string>;

  explicit UsageTotals(size_t max_tenants = 100000) : max_tenants_(max_tenants) {}

  // Of the engine that serves `model`. Variants of one name are one account.
  void AddCharges(const ModelInfo& model, std::span<const EngineObserver::Charge> charges);
  void AddFinished(const ModelInfo& model, const std::string& tenant, int variant,
                   const RequestUsage& usage);
  std::map<Key, UsageCell> Snapshot() const;
  // Of all charges so far.
  unsigned __int128 total_byte_us() const;
  std::chrono::system_clock::time_point since() const { return since_; }

 private:
  UsageCell& CellOf(const ModelInfo& model, const std::string& tenant,
                    int variant);  // mutex_ held

  const size_t max_tenants_;
  const std::chrono::system_clock::time_point since_ = std::chrono::system_clock::now();
  mutable std::mutex mutex_;
  std::map<std::string, std::map<std::string, UsageCell>> cells_;
  unsigned __int128 total_byte_us_ = 0;
};

}  // namespace lift
