// Our metrics under the names of vLLM's, for tools that know only those.
#pragma once

#include "server/metrics/probes.h"
#include "server/metrics/samples.h"
#include "server/metrics/scrape.h"

namespace lift {

// vllm:num_requests_running, vllm:num_requests_waiting, vllm:kv_cache_usage_perc and the counters
// and histograms both have, each with the label model_name. Borrows the probes.
FamilySource VllmAliases(Probes& probes, ModelLoads models);

}  // namespace lift
