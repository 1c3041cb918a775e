#include "calibration/router/collect.h"

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "calibration/eval/session.h"
#include "calibration/progress.h"
#include "server/engine/variant_views.h"
#include "server/model/model_layout.h"
#include "server/model/transformer.h"

namespace lift {
namespace {

// Variants that AUTO never uses are not traced.
TraceSet EmptySet(const Weights& weights, const CollectRequest& request) {
  TraceSet set;
  if (weights.file()) set.weights_sha256 = weights.file()->weights_sha256();
  const std::vector<router::VariantView> views = ViewsOf(weights.variants());
  const auto fit = weights.variants().subspan(router::FirstFitVariant(views));
  for (const LiftedVariant& v : fit) {
    const uint64_t read = v.full ? v.bytes : v.plane_bytes;
    set.variants.push_back({v.name, v.lambda, v.bits_per_weight, read, v.kl});
  }
  set.temperature = request.trace.temperature;
  set.seed = request.trace.seed;
  return set;
}

absl::StatusOr<TraceSet> ReadBack(const CollectRequest& request, const TraceSet& wanted) {
  LIFT_ASSIGN_OR_RETURN(TraceSet set, LoadTraces(request.traces));
  std::string differs;
  if (set.weights_sha256 != wanted.weights_sha256) differs = "weights";
  if (set.temperature != wanted.temperature || set.seed != wanted.seed) differs = "draws";
  bool same = set.variants.size() == wanted.variants.size();
  for (size_t i = 0; same && i < set.variants.size(); ++i) {
    same = set.variants[i].name == wanted.variants[i].name &&
           set.variants[i].plane_bytes == wanted.variants[i].plane_bytes;
  }
  if (!same) differs = "variants";
  if (request.trace.kept_state && !set.prompts.empty() && set.prompts[0].kept.empty())
    differs = "measurements (without kept state)";
  if (differs.empty()) {
    set.variants = wanted.variants;  // what calibration measured may be newer
    return set;
  }
  return absl::InvalidArgumentError(absl::StrCat("the traces '", request.traces, "' are of other ",
                                                 differs, "; remove the file or name another"));
}

}  // namespace

absl::StatusOr<TraceSet> ObtainTraces(const CollectRequest& request) {
  LIFT_ASSIGN_OR_RETURN(std::shared_ptr<const Weights> weights,
                        Weights::Open(request.model, {.cuts = BytesOfMegabytes(request.cut_mb)}));
  TraceSet set = EmptySet(*weights, request);
  if (set.variants.size() < 2) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'", request.model, "' has one variant fit for AUTO; there is nothing to choose"));
  }
  if (!request.traces.empty() && std::filesystem::exists(request.traces)) {
    return ReadBack(request, set);
  }
  LIFT_ASSIGN_OR_RETURN(auto tokenizer, eval::LoadTokenizer(*weights));
  LIFT_ASSIGN_OR_RETURN(const std::vector<RouterPrompt> prompts,
                        LoadRouterPrompts(request.prompts, *tokenizer, request.limit));
  TraceOptions trace = request.trace;
  trace.first_variant = static_cast<int>(weights->variants().size() - set.variants.size());
  trace.stop_ids = eval::StopIds(tokenizer->spec());
  Progress progress("router traces", request.show_progress);
  trace.progress = [&](int64_t done, int64_t total) { progress.Update(done, total); };

  LIFT_ASSIGN_OR_RETURN(const auto device, eval::Device::Make(request.threads, "cpu"));
  Transformer::Options options;
  options.kv_format = request.kv_format;
  // A recurrent model's sequence takes one block, and one more to begin its answer anew.
  options.num_blocks = std::max(
      2 * trace.batch,
      layout::StateBlocks(weights->config(), TraceTokens(prompts, trace), options.block_tokens));
  LIFT_ASSIGN_OR_RETURN(auto model, Transformer::Create(weights, *device->backend, options));
  LIFT_ASSIGN_OR_RETURN(set.prompts, CollectTraces(*model, device->pool, prompts, trace));
  if (set.prompts.empty()) {
    return absl::InvalidArgumentError("every answer is a single token; there is nothing to learn");
  }
  if (!request.traces.empty()) LIFT_RETURN_IF_ERROR(SaveTraces(request.traces, set));
  return set;
}

}  // namespace lift
