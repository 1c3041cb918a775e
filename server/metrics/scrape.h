// Everything /metrics shows that is read at scrape time rather than counted along the way.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "prometheus/collectable.h"
#include "prometheus/metric_family.h"
#include "server/metrics/probes.h"
#include "server/metrics/samples.h"
#include "server/model_info.h"

namespace lift {

// Resident set size of this process in bytes (0 where /proc is not mounted).
uint64_t ProcessRssBytes();
// Memory this process may use: the cgroup's limit if there is one, else the machine's.
uint64_t MemoryCapacityBytes();

// Memory of one model by kind. Weights are reported by variant as the bytes that are resident
// because of it and no coarser one, so that summing the series gives the resident total and not a
// multiple of it.
class ScrapeGauges : public prometheus::Collectable {
 public:
  // `probes` must outlive this; `load` may be called from any thread.
  ScrapeGauges(Probes& probes, const BuildInfo& build, std::function<EngineLoad()> load)
      : probes_(probes), build_(build), load_(std::move(load)) {}
  // What others show; before the first scrape.
  void Add(FamilySource source) { sources_.push_back(std::move(source)); }
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  size_t ResidentVariants() const;  // the coarsest
  void CollectMemory(std::vector<prometheus::MetricFamily>& out) const;
  void CollectByteSeconds(std::vector<prometheus::MetricFamily>& out) const;
  void CollectLoad(std::vector<prometheus::MetricFamily>& out) const;
  void CollectInfo(std::vector<prometheus::MetricFamily>& out) const;

  Probes& probes_;
  const BuildInfo build_;
  std::function<EngineLoad()> load_;
  std::vector<FamilySource> sources_;
};

// The whole exposition in Prometheus' text format 0.0.4.
std::string ExpositionText(Probes& probes, const ScrapeGauges& gauges);

}  // namespace lift
