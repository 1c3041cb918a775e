#include "calibration/measure.h"

#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "calibration/eval/evaluate.h"
#include "calibration/progress.h"
#include "server/model/weights.h"

namespace lift {
namespace {

absl::StatusOr<std::vector<int32_t>> EvaluationTokens(const MeasureRequest& request,
                                                      const Tokenizer& tokenizer) {
  if (request.text_path.empty()) return request.tokens;
  std::ifstream in(request.text_path, std::ios::binary);
  if (!in)
    return absl::NotFoundError(absl::StrCat("cannot read evaluation text ", request.text_path));
  std::stringstream text;
  text << in.rdbuf();
  return tokenizer.Encode(text.str(), {false, false});
}

}  // namespace

absl::StatusOr<Measurement> MeasureVariants(const MeasureRequest& request,
                                            const Tokenizer& tokenizer, Backend& backend,
                                            ThreadPool& pool) {
  LIFT_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, EvaluationTokens(request, tokenizer));
  LIFT_ASSIGN_OR_RETURN(const std::shared_ptr<Weights> lifted, Weights::Open(request.lifted_path));
  LIFT_ASSIGN_OR_RETURN(const std::shared_ptr<Weights> reference,
                        Weights::Open(request.reference_path));
  Progress progress("measuring", request.show_progress);
  EvaluateOptions options;
  options.context = request.context;
  options.max_tokens = request.max_tokens;
  options.progress = [&](int64_t done, int64_t total) { progress.Update(done, total); };
  LIFT_ASSIGN_OR_RETURN(const Evaluation scores,
                        EvaluateVariants(lifted, reference, tokens, backend, pool, options));
  options.progress = nullptr;
  Evaluation full;
  if (request.with_reference) {
    LIFT_ASSIGN_OR_RETURN(full,
                          EvaluateVariants(reference, nullptr, tokens, backend, pool, options));
  }
  Measurement out;
  out.tokens = scores.scored_tokens;
  out.text = tokens;
  for (const VariantScore& score : scores.variants) {
    out.kl.push_back(score.kl);
    out.perplexity.push_back(score.perplexity);
  }
  const LiftedVariant& source = reference->variants()[0];
  if (request.with_reference)
    out.reference = {source.name, full.variants[0].perplexity, source.bytes,
                     source.bits_per_weight};
  return out;
}

absl::StatusOr<std::vector<SourceReport>> MeasureSources(const MeasureRequest& whole,
                                                         std::span<const CalibrationSource> sources,
                                                         const Tokenizer& tokenizer,
                                                         Backend& backend, ThreadPool& pool) {
  std::vector<SourceReport> reports;
  for (const CalibrationSource& source : sources) {
    if (!source.named || source.held_out.size() < 2) continue;
    const MeasureRequest request{
        whole.lifted_path, whole.reference_path, "",   source.held_out, whole.context,
        whole.max_tokens,  whole.show_progress,  false};
    LIFT_ASSIGN_OR_RETURN(Measurement measured, MeasureVariants(request, tokenizer, backend, pool));
    reports.push_back({source.name, source.weight.value_or(1.0), source.samples, measured.tokens,
                       std::move(measured.kl)});
  }
  return reports;
}

}  // namespace lift
