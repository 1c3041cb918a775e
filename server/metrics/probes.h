// The metrics of the request path, as typed probes over prometheus-cpp.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "server/engine/engine.h"
#include "server/metrics/usage_totals.h"
#include "server/model_info.h"

namespace lift {

// Bounds the `tenant` label: the first `limit` tenants keep their names, later ones share
// "__other__". Thread-safe.
class TenantLabels {
 public:
  explicit TenantLabels(size_t limit) : limit_(limit) {}
  std::string LabelOf(const std::string& tenant);

 private:
  const size_t limit_;
  std::mutex mutex_;
  std::set<std::string> known_;
};

// The families. Thread-safe.
class Probes {
 public:
  // `totals` must outlive the probes.
  explicit Probes(UsageTotals& totals, size_t max_tenant_labels = 100);

  prometheus::Registry& registry() { return registry_; }
  TenantLabels& tenant_labels() { return tenant_labels_; }
  const UsageTotals& totals() const { return totals_; }

 private:
  friend class ModelProbes;
  UsageTotals& totals_;
  TenantLabels tenant_labels_;
  prometheus::Registry registry_;
  prometheus::Family<prometheus::Counter>& requests_;
  prometheus::Family<prometheus::Counter>& rejected_;
  prometheus::Family<prometheus::Counter>& decisions_;
  prometheus::Family<prometheus::Counter>& generation_tokens_;
  prometheus::Family<prometheus::Histogram>& time_to_first_token_;
  prometheus::Family<prometheus::Histogram>& inter_token_latency_;
  prometheus::Counter* prompt_computed_;
  prometheus::Counter* prompt_cached_;
  prometheus::Histogram* e2e_;
  prometheus::Histogram* queue_;
  prometheus::Histogram* prefill_;
  prometheus::Histogram* decode_;
  prometheus::Histogram* router_score_;
  prometheus::Histogram* router_seconds_;
};

// Observes one model's engine. Thread-safe: rejections come from RPC threads, everything else from
// the engine's. What fires per token looks nothing up; it holds pointers made at construction.
class ModelProbes : public EngineObserver {
 public:
  // Both must outlive it.
  ModelProbes(Probes& probes, const ModelInfo& model);

  void OnRejected(const EngineRequest& request, const absl::Status& status) override;
  void OnDecision(const router::Decision& decision, int variant, double seconds) override;
  void OnFirstToken(int variant, double ttft_seconds) override;
  void OnInterToken(int variant, double seconds) override;
  void OnFinished(const EngineRequest& request, const FinishedEvent& event) override;
  void OnCharges(std::span<const Charge> charges, unsigned __int128 resident_byte_us) override;

 private:
  struct PerVariant {
    prometheus::Counter* generation_tokens;
    prometheus::Histogram* time_to_first_token;
    prometheus::Histogram* inter_token_latency;
  };
  std::string VariantName(int variant) const;

  Probes& probes_;
  const ModelInfo& model_;
  std::vector<PerVariant> variants_;
};

}  // namespace lift
