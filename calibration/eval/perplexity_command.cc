#include <cstdio>
#include <nlohmann/json.hpp>

#include "absl/strings/str_split.h"
#include "calibration/eval/commands.h"
#include "calibration/eval/evaluate.h"
#include "calibration/eval/session.h"

namespace lift::eval {
namespace {

using nlohmann::json;

void PrintJson(const Weights& weights, const Evaluation& evaluation, bool with_reference) {
  json variants = json::array();
  for (const VariantScore& score : evaluation.variants) {
    const LiftedVariant& variant = weights.variants()[static_cast<size_t>(score.variant)];
    variants.push_back({{"name", variant.name},
                        {"lambda", variant.lambda},
                        {"bits_per_weight", variant.bits_per_weight},
                        {"bytes", variant.bytes},
                        {"perplexity", score.perplexity},
                        {"kl", with_reference ? json(score.kl) : json()},
                        {"top1_agreement", with_reference ? json(score.top1_agreement) : json()}});
  }
  const json report = {{"variants", std::move(variants)},
                       {"tokens", evaluation.scored_tokens},
                       {"text_tokens", evaluation.text_tokens},
                       {"windows", evaluation.windows}};
  std::printf("%s\n", report.dump().c_str());
}

void PrintTable(const Weights& weights, const Evaluation& evaluation, bool with_reference) {
  std::printf("%-16s %8s %8s %10s %12s%s\n", "variant", "lambda", "bits", "MB", "perplexity",
              with_reference ? "         KL    top-1" : "");
  for (const VariantScore& score : evaluation.variants) {
    const LiftedVariant& variant = weights.variants()[static_cast<size_t>(score.variant)];
    std::printf("%-16s %8.4f %8.3f %10.2f %12.4f", variant.name.c_str(), variant.lambda,
                variant.bits_per_weight, static_cast<double>(variant.bytes) / 1e6,
                score.perplexity);
    if (with_reference) std::printf(" %10.6f %7.2f%%", score.kl, 100 * score.top1_agreement);
    std::printf("\n");
  }
  std::printf("%lld tokens scored in %lld windows\n",
              static_cast<long long>(evaluation.scored_tokens),
              static_cast<long long>(evaluation.windows));
}

}  // namespace

absl::Status RunPerplexity(const CommonOptions& common, const PerplexityOptions& options) {
  LIFT_ASSIGN_OR_RETURN(const std::string text, ReadText(common.text_path));
  LIFT_ASSIGN_OR_RETURN(auto weights, Weights::Open(common.model, common.open_options()));
  EvaluateOptions evaluate;
  evaluate.context = options.context;
  evaluate.max_tokens = options.max_tokens;
  evaluate.prefill = options.prefill;
  evaluate.kv_format = common.kv_format();
  if (options.variant != "all") {
    for (const absl::string_view name : absl::StrSplit(options.variant, ',')) {
      LIFT_ASSIGN_OR_RETURN(const int index, FindVariant(*weights, std::string(name)));
      evaluate.variants.push_back(index);
    }
  }
  std::shared_ptr<Weights> reference;
  if (!options.reference.empty()) {
    LIFT_ASSIGN_OR_RETURN(reference, Weights::Open(options.reference));
    if (!reference->variants().back().full) {
      return absl::InvalidArgumentError(
          "the reference has no full-precision variant; give the checkpoint itself");
    }
  }
  LIFT_ASSIGN_OR_RETURN(auto tokenizer, LoadTokenizer(*weights));
  LIFT_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                        tokenizer->Encode(text, {.add_special = false}));
  LIFT_ASSIGN_OR_RETURN(const auto device, Device::Make(common.threads, common.device));
  evaluate.progress = [](int64_t done, int64_t windows) {
    std::fprintf(stderr, "\rwindow %lld of %lld%s", static_cast<long long>(done),
                 static_cast<long long>(windows), done == windows ? "\n" : "");
  };
  LIFT_ASSIGN_OR_RETURN(
      const Evaluation evaluation,
      EvaluateVariants(weights, reference, ids, *device->backend, device->pool, evaluate));
  (common.json ? PrintJson : PrintTable)(*weights, evaluation, reference != nullptr);
  return absl::OkStatus();
}

}  // namespace lift::eval
