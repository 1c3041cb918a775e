// Building metric families at scrape time.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "prometheus/metric_family.h"

namespace lift {

using SampleLabels = std::vector<prometheus::ClientMetric::Label>;
// Appends families to what a scrape returns. Any thread.
using FamilySource = std::function<void(std::vector<prometheus::MetricFamily>&)>;

inline void AddSample(prometheus::MetricFamily& family, SampleLabels labels, double value) {
  prometheus::ClientMetric metric;
  metric.label = std::move(labels);
  (family.type == prometheus::MetricType::Counter ? metric.counter.value : metric.gauge.value) =
      value;
  family.metric.push_back(std::move(metric));
}

inline prometheus::MetricFamily MakeGauge(std::string name, std::string help) {
  return {std::move(name), std::move(help), prometheus::MetricType::Gauge, {}};
}

inline prometheus::MetricFamily MakeCounter(std::string name, std::string help) {
  return {std::move(name), std::move(help), prometheus::MetricType::Counter, {}};
}

// A family with one sample that has no labels.
inline prometheus::MetricFamily Single(prometheus::MetricFamily family, double value) {
  AddSample(family, {}, value);
  return family;
}

}  // namespace lift
