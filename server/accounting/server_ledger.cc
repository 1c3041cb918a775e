#include "server/accounting/server_ledger.h"

#include <utility>

namespace lift {

absl::StatusOr<std::unique_ptr<ServerLedger>> ServerLedger::Open(Options options,
                                                                 const UsageTotals& totals) {
  LIFT_ASSIGN_OR_RETURN(std::unique_ptr<Ledger> ledger,
                        Ledger::Open(options.path, options.sync, options.audit_key));
  return std::unique_ptr<ServerLedger>(
      new ServerLedger(std::move(ledger), std::move(options), totals));
}

ServerLedger::ServerLedger(std::unique_ptr<Ledger> ledger, Options options,
                           const UsageTotals& totals)
    : totals_(totals),
      charge_interval_(ChargeInterval(options.checkpoint)),
      ledger_(std::move(ledger)),
      writer_(*ledger_, {.checkpoint = options.checkpoint,
                         .retention_days = options.retention_days,
                         .drift_check = options.drift_check,
                         .now_us = {},
                         .report = std::move(options.report)}) {}

void ModelLedger::OnAdmitted(const EngineRequest& request) {
  ledger_.writer_.Begin(
      {static_cast<int64_t>(request.sequence), request.request_id, request.tenant});
}

void ModelLedger::OnRouted(const EngineRequest& request, const RoutedEvent& event) {
  if (request.tenant == kOverheadTenant) return;  // the server's own, nobody's question
  const VariantInfo& variant = model_.variants.at(static_cast<size_t>(event.variant));
  RoutingDecision d;
  d.model = model_.name;
  d.weights_sha256 = model_.weights_sha256;
  d.policy = model_.router_version;
  d.pinned = request.precision.mode == router::Mode::kPinned;
  d.pinned_variant = request.precision.variant;
  d.min_lambda = request.precision.min_lambda;
  d.max_quality_loss = request.precision.max_quality_loss;
  d.allow_fallback = request.precision.allow_fallback;
  d.score = event.decision.score;
  d.queue_pressure = event.state.queue_pressure;
  d.resident_variants = event.resident_variants;
  d.prompt_tokens = event.prompt_tokens;
  d.prompt_class = router::PromptClassName(event.kind.prompt_class);
  d.language = event.kind.language;
  d.variant = variant.name;
  d.lambda = d.served_lambda = variant.lambda;
  d.bits_per_weight = variant.bits_per_weight;
  d.reason = router::ReasonName(event.decision.reason);
  d.fallback_from = event.decision.fallback_from;
  ledger_.writer_.Decide(static_cast<int64_t>(request.sequence), std::move(d));
}

// Of the first answer's tokens; nothing without any.
std::optional<double> ModelLedger::ServedLambda(const FinishedEvent& event) const {
  double sum = 0;
  int64_t tokens = 0;
  for (const PrecisionSpan& span : event.spans) {
    sum += static_cast<double>(span.tokens) *
           model_.variants.at(static_cast<size_t>(span.variant)).lambda;
    tokens += span.tokens;
  }
  if (tokens == 0) return std::nullopt;
  return sum / static_cast<double>(tokens);
}

void ModelLedger::OnFinished(const EngineRequest& request, const FinishedEvent& event) {
  ledger_.writer_.Finish(static_cast<int64_t>(request.sequence),
                         {.variant = model_.variants.at(static_cast<size_t>(event.variant)).name,
                          .code = absl::StatusCodeToString(event.status.code()),
                          .finish_reason = std::string(FinishReasonName(event.reason)),
                          .prompt_tokens = event.usage.prompt_tokens,
                          .generated_tokens = event.usage.generated_tokens,
                          .cached_tokens = event.usage.cached_tokens,
                          .served_lambda = ServedLambda(event)});
}

void ModelLedger::OnCharges(std::span<const Charge> charges, unsigned __int128 resident_byte_us) {
  charges_.clear();
  for (const Charge& charge : charges) {
    LedgerWriter::Charge row;
    row.sequence = static_cast<int64_t>(charge.sequence);
    if (charge.sequence == 0) row.sequence = charge.tenant == kIdleTenant ? 0 : -1;
    row.kv = charge.kv;
    row.byte_us = charge.byte_us;
    if (charge.variant >= 0) {
      const VariantInfo& variant = model_.variants.at(static_cast<size_t>(charge.variant));
      row.variant = variant.name;
      row.lambda = variant.lambda;
    }
    charges_.push_back(row);
  }
  ledger_.writer_.Add(charges_, resident_byte_us, ledger_.totals_.total_byte_us());
}

std::function<void(std::function<void()>)> ServerLedger::acknowledge() {
  return [this](std::function<void()> told) { writer_.WhenCommitted(std::move(told)); };
}

}  // namespace lift
