#include "server/metrics/probes.h"

#include "server/errors.h"

namespace lift {
namespace {

using prometheus::BuildCounter;
using prometheus::BuildHistogram;
using Buckets = prometheus::Histogram::BucketBoundaries;

// Seconds. A small model on one core already decodes below a millisecond, so the fine end matters.
const Buckets kInterToken{.00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5};
const Buckets kFirstToken{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60};
const Buckets kWhole{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600};
const Buckets kRouter{.000001, .0000025, .000005, .00001, .000025, .00005, .0001, .001, .01};
const Buckets kScore{.1, .2, .3, .4, .5, .6, .7, .8, .9, 1};

prometheus::Histogram* AddHistogram(prometheus::Registry& registry, const char* name,
                                    const char* help, const Buckets& buckets) {
  return &BuildHistogram().Name(name).Help(help).Register(registry).Add({}, buckets);
}

}  // namespace

std::string TenantLabels::LabelOf(const std::string& tenant) {
  if (tenant.starts_with("__")) return tenant;  // ours; clients cannot use such names
  std::lock_guard lock(mutex_);
  if (known_.contains(tenant)) return tenant;
  if (known_.size() >= limit_) return kOtherTenant;
  known_.insert(tenant);
  return tenant;
}

Probes::Probes(UsageTotals& totals, size_t max_tenant_labels)
    : totals_(totals),
      tenant_labels_(max_tenant_labels),
      requests_(BuildCounter()
                    .Name("liftserve_requests_total")
                    .Help("Requests that ended, by variant, canonical code and tenant")
                    .Register(registry_)),
      rejected_(BuildCounter()
                    .Name("liftserve_requests_rejected_total")
                    .Help("Requests refused before any work was spent, by reason")
                    .Register(registry_)),
      decisions_(BuildCounter()
                     .Name("liftserve_router_decisions_total")
                     .Help("Routing decisions, by variant and reason")
                     .Register(registry_)),
      generation_tokens_(BuildCounter()
                             .Name("liftserve_generation_tokens_total")
                             .Help("Tokens generated, by variant")
                             .Register(registry_)),
      time_to_first_token_(BuildHistogram()
                               .Name("liftserve_time_to_first_token_seconds")
                               .Help("From arrival to the first token, by variant")
                               .Register(registry_)),
      inter_token_latency_(BuildHistogram()
                               .Name("liftserve_inter_token_latency_seconds")
                               .Help("Between two tokens of one request, by variant")
                               .Register(registry_)) {
  auto& prompt = BuildCounter()
                     .Name("liftserve_prompt_tokens_total")
                     .Help("Prompt tokens of finished requests, computed or found in the cache")
                     .Register(registry_);
  prompt_computed_ = &prompt.Add({{"source", "computed"}});
  prompt_cached_ = &prompt.Add({{"source", "cached"}});
  e2e_ = AddHistogram(registry_, "liftserve_e2e_request_latency_seconds",
                      "From arrival to the end of the answer", kWhole);
  queue_ = AddHistogram(registry_, "liftserve_request_queue_time_seconds", "Waiting for a slot",
                        kFirstToken);
  prefill_ = AddHistogram(registry_, "liftserve_request_prefill_time_seconds",
                          "From leaving the queue to the first token", kFirstToken);
  decode_ = AddHistogram(registry_, "liftserve_request_decode_time_seconds",
                         "From the first token to the last", kWhole);
  router_score_ = AddHistogram(registry_, "liftserve_router_complexity_score",
                               "The router's estimate of difficulty", kScore);
  router_seconds_ =
      AddHistogram(registry_, "liftserve_router_decision_seconds", "Time the router took", kRouter);
}

ModelProbes::ModelProbes(Probes& probes, const ModelInfo& model) : probes_(probes), model_(model) {
  for (const VariantInfo& variant : model_.variants) {
    const prometheus::Labels labels{{"variant", variant.name}};
    variants_.push_back({&probes.generation_tokens_.Add(labels),
                         &probes.time_to_first_token_.Add(labels, kFirstToken),
                         &probes.inter_token_latency_.Add(labels, kInterToken)});
  }
}

std::string ModelProbes::VariantName(int variant) const {
  if (variant < 0 || static_cast<size_t>(variant) >= model_.variants.size()) return "";
  return model_.variants[static_cast<size_t>(variant)].name;
}

void ModelProbes::OnRejected(const EngineRequest& request, const absl::Status& status) {
  probes_.rejected_.Add({{"reason", ErrorReason(status)}}).Increment();
  probes_.requests_
      .Add({{"variant", ""},
            {"code", absl::StatusCodeToString(status.code())},
            {"tenant", probes_.tenant_labels_.LabelOf(request.tenant)}})
      .Increment();
}

void ModelProbes::OnDecision(const router::Decision& decision, int variant, double seconds) {
  probes_.decisions_
      .Add({{"variant", VariantName(variant)},
            {"reason", std::string(router::ReasonName(decision.reason))}})
      .Increment();
  probes_.router_score_->Observe(decision.score);
  probes_.router_seconds_->Observe(seconds);
}

void ModelProbes::OnFirstToken(int variant, double ttft_seconds) {
  PerVariant& probes = variants_.at(static_cast<size_t>(variant));
  probes.time_to_first_token->Observe(ttft_seconds);
}

void ModelProbes::OnInterToken(int variant, double seconds) {
  PerVariant& probes = variants_.at(static_cast<size_t>(variant));
  probes.inter_token_latency->Observe(seconds);
}

void ModelProbes::OnFinished(const EngineRequest& request, const FinishedEvent& event) {
  const int variant = event.variant;
  probes_.requests_
      .Add({{"variant", VariantName(variant)},
            {"code", absl::StatusCodeToString(event.status.code())},
            {"tenant", probes_.tenant_labels_.LabelOf(request.tenant)}})
      .Increment();
  const RequestUsage& usage = event.usage;
  probes_.prompt_computed_->Increment(
      static_cast<double>(usage.prompt_tokens - usage.cached_tokens));
  probes_.prompt_cached_->Increment(static_cast<double>(usage.cached_tokens));
  if (variant >= 0 && static_cast<size_t>(variant) < variants_.size()) {
    variants_[static_cast<size_t>(variant)].generation_tokens->Increment(
        static_cast<double>(usage.generated_tokens));
  }
  probes_.e2e_->Observe(event.timings.total_seconds);
  probes_.queue_->Observe(event.timings.queue_seconds);
  probes_.prefill_->Observe(event.timings.prefill_seconds);
  probes_.decode_->Observe(event.timings.decode_seconds);
  probes_.totals_.AddFinished(model_, request.tenant, variant, usage);
}

void ModelProbes::OnCharges(std::span<const Charge> charges, unsigned __int128) {
  probes_.totals_.AddCharges(model_, charges);
}

}  // namespace lift
