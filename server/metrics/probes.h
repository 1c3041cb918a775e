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

// Observes the engine. Thread-safe: rejections come from RPC threads, everything else from the
// engine's. Probes that fire per token look nothing up; they hold pointers made at construction.
class Probes : public EngineObserver {
 public:
  // `model` and `totals` must outlive the probes.
  Probes(const ModelInfo& model, UsageTotals& totals, size_t max_tenant_labels = 100);

  void OnRejected(const EngineRequest& request, const absl::Status& status) override;
  void OnDecision(const router::Decision& decision, int variant, double seconds) override;
  void OnFirstToken(int variant, double ttft_seconds) override;
  void OnInterToken(int variant, double seconds) override;
  void OnFinished(const EngineRequest& request, const FinishedEvent& event) override;
  void OnCharges(std::span<const Charge> charges, unsigned __int128 resident_byte_us) override;

  prometheus::Registry& registry() { return registry_; }
  TenantLabels& tenant_labels() { return tenant_labels_; }
  const ModelInfo& model() const { return model_; }
  const UsageTotals& totals() const { return totals_; }

 private:
  struct PerVariant {
    prometheus::Counter* generation_tokens;
    prometheus::Histogram* time_to_first_token;
    prometheus::Histogram* inter_token_latency;
  };
  std::string VariantName(int variant) const;
  void AddVariantProbes();

  const ModelInfo& model_;
  UsageTotals& totals_;
  TenantLabels tenant_labels_;
  prometheus::Registry registry_;
  prometheus::Family<prometheus::Counter>& requests_;
  prometheus::Family<prometheus::Counter>& rejected_;
  prometheus::Family<prometheus::Counter>& decisions_;
  prometheus::Counter* prompt_computed_;
  prometheus::Counter* prompt_cached_;
  prometheus::Histogram* e2e_;
  prometheus::Histogram* queue_;
  prometheus::Histogram* prefill_;
  prometheus::Histogram* decode_;
  prometheus::Histogram* router_score_;
  prometheus::Histogram* router_seconds_;
  std::vector<PerVariant> variants_;
};

}  // namespace lift
