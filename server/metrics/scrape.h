// Everything /metrics shows that is read at scrape time rather than counted along the way.
#pragma once

#include <functional>
#include <memory>
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

// A model in memory and how its engine is doing.
struct ModelLoad {
  std::shared_ptr<const ModelInfo> info;
  EngineLoad load;
};
// The one that new calls go to first, then those that were swapped and still have calls. Any
// thread.
using ModelLoads = std::function<std::vector<ModelLoad>()>;
// Of a server that keeps its model; `model` must outlive it.
ModelLoads OneModel(const ModelInfo& model, std::function<EngineLoad()> load);

// Memory of the models by kind. Weights are reported by variant as the bytes that are resident
// because of it and no coarser one, so that summing the series gives the resident total and not a
// multiple of it.
class ScrapeGauges : public prometheus::Collectable {
 public:
  // `probes` must outlive this.
  ScrapeGauges(Probes& probes, const BuildInfo& build, ModelLoads models)
      : probes_(probes), build_(build), models_(std::move(models)) {}
  // What others show; before the first scrape.
  void Add(FamilySource source) { sources_.push_back(std::move(source)); }
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  void CollectMemory(const std::vector<ModelLoad>& models,
                     std::vector<prometheus::MetricFamily>& out) const;
  void CollectByteSeconds(std::vector<prometheus::MetricFamily>& out) const;
  void CollectInfo(const ModelLoad& current, std::vector<prometheus::MetricFamily>& out) const;

  Probes& probes_;
  const BuildInfo build_;
  ModelLoads models_;
  std::vector<FamilySource> sources_;
};

// The whole exposition in Prometheus' text format 0.0.4.
std::string ExpositionText(Probes& probes, const ScrapeGauges& gauges);

}  // namespace lift
