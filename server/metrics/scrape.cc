#include "server/metrics/scrape.h"

#include <unistd.h>

#include <fstream>
#include <map>
#include <span>
#include <sstream>
#include <tuple>

#include "prometheus/text_serializer.h"

namespace lift {
namespace {

using prometheus::MetricFamily;
using prometheus::MetricType;

size_t ResidentVariants(const ModelInfo& model, const EngineLoad& load) {  // the coarsest
  return load.resident_variants < 0 ? model.variants.size()
                                    : static_cast<size_t>(load.resident_variants);
}

void CollectLoad(const std::vector<ModelLoad>& models, std::vector<MetricFamily>& out) {
  EngineLoad load = models.front().load;  // counts that only grow are the current engine's
  for (const ModelLoad& other : std::span(models).subspan(1)) {
    load.running += other.load.running;
    load.waiting += other.load.waiting;
    load.blocks_used += other.load.blocks_used;
    load.blocks_total += other.load.blocks_total;
  }
  const auto add = [&](const char* name, const char* help, double value) {
    MetricFamily family = MakeGauge(name, help);
    AddSample(family, {}, value);
    out.push_back(std::move(family));
  };
  add("liftserve_requests_running", "Requests in the batch", static_cast<double>(load.running));
  add("liftserve_requests_waiting", "Requests in the queue", static_cast<double>(load.waiting));
  add("liftserve_kv_cache_usage_ratio", "State blocks held over state blocks of the pool",
      load.blocks_total > 0
          ? static_cast<double>(load.blocks_used) / static_cast<double>(load.blocks_total)
          : 0.0);
  const PreemptionStats& preempted = load.preemption;
  add("liftserve_swap_usage_ratio", "Blocks in the swap space over blocks it has room for",
      preempted.swap_blocks_total > 0 ? static_cast<double>(preempted.swap_blocks_used) /
                                            static_cast<double>(preempted.swap_blocks_total)
                                      : 0.0);
  MetricFamily preemptions =
      MakeCounter("liftserve_preemptions_total",
                  "Sequences that gave their blocks to others, by what becomes of their state");
  AddSample(preemptions, {{"state", "computed_again"}}, static_cast<double>(preempted.recomputed));
  AddSample(preemptions, {{"state", "swapped"}}, static_cast<double>(preempted.swapped));
  out.push_back(std::move(preemptions));
  add("liftserve_draining", "1 while new work is refused", load.draining ? 1 : 0);
}

}  // namespace

uint64_t ProcessRssBytes() {
  std::ifstream statm("/proc/self/statm");
  uint64_t total_pages = 0, resident_pages = 0;
  statm >> total_pages >> resident_pages;
  return resident_pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

uint64_t MemoryCapacityBytes() {
  const uint64_t machine =
      static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  uint64_t limit = 0;
  std::ifstream cgroup("/sys/fs/cgroup/memory.max");  // "max" where there is no limit
  return cgroup >> limit && limit < machine ? limit : machine;
}

ModelLoads OneModel(const ModelInfo& model, std::function<EngineLoad()> load) {
  std::shared_ptr<const ModelInfo> info(std::shared_ptr<void>(), &model);
  return [info, load = std::move(load)] { return std::vector<ModelLoad>{{info, load()}}; };
}

// Models of one name are one series: their bytes add up.
void ScrapeGauges::CollectMemory(const std::vector<ModelLoad>& models,
                                 std::vector<MetricFamily>& out) const {
  MetricFamily resident = MakeGauge("liftserve_memory_resident_bytes",
                                    "Bytes this server holds, by kind; weights by variant as the "
                                    "bytes added by it to all coarser ones, so the series sum to "
                                    "the total");
  std::map<std::tuple<std::string, std::string, std::string, std::string>, uint64_t> series;
  std::map<std::string, uint64_t> accounted;  // by device
  std::map<std::string, DeviceMemory> devices;
  for (const auto& [info, load] : models) {
    const ModelInfo& model = *info;
    const auto add = [&, device = model.device](const char* kind, const std::string& variant,
                                                uint64_t bytes) {
      series[{kind, model.name, variant, device}] += bytes;
      accounted[device] += bytes;
    };
    if (model.memory_probe != nullptr) devices[model.device] = model.memory_probe();
    const size_t held = ResidentVariants(model, load);
    for (size_t i = 0; i < model.variants.size(); ++i) {
      add("weights", model.variants[i].name, i < held ? model.variants[i].incremental_bytes : 0);
    }
    add("state", "", model.state_bytes);
    add("workspace", "", model.workspace_bytes);
  }
  for (const auto& [key, bytes] : series) {
    const auto& [kind, model, variant, device] = key;
    AddSample(resident,
              {{"kind", kind}, {"model", model}, {"variant", variant}, {"device", device}},
              static_cast<double>(bytes));
  }

  MetricFamily capacity =
      MakeGauge("liftserve_memory_capacity_bytes", "Memory this process may use");
  AddSample(capacity, {{"device", "cpu"}}, static_cast<double>(MemoryCapacityBytes()));

  MetricFamily unattributed =
      MakeGauge("liftserve_memory_unattributed_bytes",
                "Resident set of the process minus what is accounted for on the CPU; negative "
                "while parts of the weights file or the state pool have not been touched. Of a "
                "GPU: what is in use on it, by anybody, minus what this server accounts for there");
  MetricFamily per_token = MakeGauge("liftserve_kv_cache_bytes_per_token",
                                     "Bytes of attention state a token holds in this format");
  const ModelInfo& current = *models.front().info;
  AddSample(per_token, {{"model", current.name}, {"format", current.kv_format}},
            static_cast<double>(current.state_bytes_per_token));
  out.push_back(std::move(per_token));

  AddSample(unattributed, {{"device", "cpu"}},
            static_cast<double>(ProcessRssBytes()) - static_cast<double>(accounted["cpu"]));
  for (const auto& [device, memory] : devices) {
    AddSample(capacity, {{"device", device}}, static_cast<double>(memory.capacity));
    AddSample(unattributed, {{"device", device}},
              static_cast<double>(memory.used) - static_cast<double>(accounted[device]));
  }
  out.push_back(std::move(resident));
  out.push_back(std::move(capacity));
  out.push_back(std::move(unattributed));
}

void ScrapeGauges::CollectByteSeconds(std::vector<MetricFamily>& out) const {
  MetricFamily family{"liftserve_memory_byte_seconds_total",
                      "Memory x time by who caused it; basis is what the split goes by: planes "
                      "read, blocks held, or merely resident (idle and overhead)",
                      MetricType::Counter,
                      {}};
  struct Sum {
    double weight = 0, kv = 0;
  };
  std::map<UsageTotals::Key, Sum> sums;  // after folding tenants into their bounded labels
  for (const auto& [key, cell] : probes_.totals().Snapshot()) {
    Sum& sum = sums[{probes_.tenant_labels().LabelOf(key.first), key.second}];
    sum.weight += ByteSeconds(cell.weight_byte_us);
    sum.kv += ByteSeconds(cell.kv_byte_us);
  }
  for (const auto& [key, sum] : sums) {
    const std::string& variant = key.second;
    const bool nobody = key.first.starts_with("__") && key.first != kOtherTenant;
    const std::string& tenant = key.first;
    const auto add = [&](const char* kind, const char* basis, double value) {
      AddSample(family,
                {{"tenant", tenant}, {"variant", variant}, {"kind", kind}, {"basis", basis}},
                value);
    };
    add("weights", nobody ? "resident" : "planes_read", sum.weight);
    add("state", nobody ? "resident" : "blocks_held", sum.kv);
  }
  out.push_back(std::move(family));
}

void ScrapeGauges::CollectInfo(const ModelLoad& current, std::vector<MetricFamily>& out) const {
  const ModelInfo& model = *current.info;
  const size_t resident = ResidentVariants(model, current.load);
  MetricFamily lambda = MakeGauge("liftserve_precision_lambda",
                                  "Precision of a variant: log16 of its bits per weight");
  MetricFamily info = MakeGauge("liftserve_variant_info", "1 for every resident variant");
  for (const VariantInfo& variant : std::span(model.variants).first(resident)) {
    AddSample(lambda, {{"model", model.name}, {"variant", variant.name}}, variant.lambda);
    std::ostringstream bits;
    bits << variant.bits_per_weight;
    AddSample(info,
              {{"model", model.name},
               {"variant", variant.name},
               {"bits_per_weight", bits.str()},
               {"bytes", std::to_string(variant.bytes)},
               {"weights_sha256", model.weights_sha256}},
              1);
  }
  MetricFamily build = MakeGauge("liftserve_build_info", "1, with what was built as labels");
  AddSample(build,
            {{"version", build_.version},
             {"build_type", build_.build_type},
             {"cuda", build_.cuda_compiled ? "true" : "false"},
             {"device", model.device_description}},
            1);
  out.push_back(std::move(lambda));
  out.push_back(std::move(info));
  out.push_back(std::move(build));
}

std::vector<MetricFamily> ScrapeGauges::Collect() const {
  std::vector<MetricFamily> out;
  const std::vector<ModelLoad> models = models_();
  CollectMemory(models, out);
  CollectByteSeconds(out);
  CollectLoad(models, out);
  CollectInfo(models.front(), out);
  for (const FamilySource& source : sources_) source(out);
  return out;
}

std::string ExpositionText(Probes& probes, const ScrapeGauges& gauges) {
  std::vector<MetricFamily> families = probes.registry().Collect();
  for (MetricFamily& family : gauges.Collect()) families.push_back(std::move(family));
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace lift
