#include "server/metrics/vllm_aliases.h"

#include <map>

namespace lift {
namespace {

const std::map<std::string, std::string>& Renamed() {
  static const std::map<std::string, std::string> names{
      {"liftserve_prompt_tokens_total", "vllm:prompt_tokens_total"},
      {"liftserve_generation_tokens_total", "vllm:generation_tokens_total"},
      {"liftserve_time_to_first_token_seconds", "vllm:time_to_first_token_seconds"},
      {"liftserve_inter_token_latency_seconds", "vllm:inter_token_latency_seconds"},
      {"liftserve_e2e_request_latency_seconds", "vllm:e2e_request_latency_seconds"},
      {"liftserve_request_queue_time_seconds", "vllm:request_queue_time_seconds"},
      {"liftserve_request_prefill_time_seconds", "vllm:request_prefill_time_seconds"},
      {"liftserve_request_decode_time_seconds", "vllm:request_decode_time_seconds"}};
  return names;
}

}  // namespace

FamilySource VllmAliases(Probes& probes, ModelLoads models) {
  return [&probes, models = std::move(models)](std::vector<prometheus::MetricFamily>& out) {
    const auto [info, now] = models().front();
    const std::string& model = info->name;
    const auto gauge = [&](const char* name, const char* help, double value) {
      prometheus::MetricFamily family = MakeGauge(name, help);
      AddSample(family, {{"model_name", model}}, value);
      out.push_back(std::move(family));
    };
    gauge("vllm:num_requests_running", "As liftserve_requests_running",
          static_cast<double>(now.running));
    gauge("vllm:num_requests_waiting", "As liftserve_requests_waiting",
          static_cast<double>(now.waiting));
    gauge("vllm:kv_cache_usage_perc", "As liftserve_kv_cache_usage_ratio",
          now.blocks_total > 0
              ? static_cast<double>(now.blocks_used) / static_cast<double>(now.blocks_total)
              : 0.0);
    for (prometheus::MetricFamily& family : probes.registry().Collect()) {
      const auto name = Renamed().find(family.name);
      if (name == Renamed().end()) continue;
      family.help = "As " + family.name;
      family.name = name->second;
      for (auto& metric : family.metric) metric.label.push_back({"model_name", model});
      out.push_back(std::move(family));
    }
  };
}

}  // namespace lift
