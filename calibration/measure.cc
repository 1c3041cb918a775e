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
  Measurement out;
  LIFT_ASSIGN_OR_RETURN(out.text, EvaluationTokens(request, tokenizer));
  LIFT_ASSIGN_OR_RETURN(const std::shared_ptr<Weights> lifted, Weights::Open(request.lifted_path));
  LIFT_ASSIGN_OR_RETURN(const std::shared_ptr<Weights> reference,
                        Weights::Open(request.reference_path));
  const auto evaluate = [&](const std::vector<int32_t>& tokens) {
    Progress progress("measuring", request.show_progress);
    EvaluateOptions options;
    options.context = request.context;
    options.max_tokens = request.max_tokens;
    options.progress = [&](int64_t done, int64_t total) { progress.Update(done, total); };
    return EvaluateVariants(lifted, reference, tokens, backend, pool, options);
  };
  LIFT_ASSIGN_OR_RETURN(const Evaluation scores, evaluate(out.text));
  out.tokens = scores.scored_tokens;
  for (const VariantScore& score : scores.variants) {
    out.kl.push_back(score.kl);
    out.perplexity.push_back(score.perplexity);
  }
  const LiftedVariant& source = reference->variants()[0];
  out.reference = {source.name, scores.reference_perplexity, source.bytes, source.bits_per_weight};
  for (const CalibrationSource& part : request.sources) {
    if (!part.named || part.held_out.size() < 2) continue;
    LIFT_ASSIGN_OR_RETURN(const Evaluation own, evaluate(part.held_out));
    SourceReport& report = out.sources.emplace_back();
    report = {part.name, part.weight.value_or(1.0), part.samples, own.scored_tokens, {}};
    for (const VariantScore& score : own.variants) report.kl.push_back(score.kl);
  }
  return out;
}

}  // namespace lift
