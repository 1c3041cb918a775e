#include "server/client/audit.h"

#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/audit/chain.h"
#include "server/audit/messages.h"
#include "server/client/parity_text.h"
#include "server/client/report.h"

namespace lift::client {
namespace {

using nlohmann::json;

constexpr int64_t kPageRows = 1000;

std::string HeadText(const DecisionHead& head) { return absl::StrCat(head.count, ":", head.hash); }

absl::StatusOr<ChainVerifier::Options> VerifierOptions(const ClientOptions& o, bool complete) {
  ChainVerifier::Options options{.complete = complete};
  options.unkeyed = o.unkeyed;
  if (!o.audit_key_file.empty()) {
    LIFT_ASSIGN_OR_RETURN(options.key, AuditKey::Read(o.audit_key_file));
  }
  if (!o.audit_head.empty()) {
    LIFT_ASSIGN_OR_RETURN(options.kept, ParseKeptHead(o.audit_head));
  }
  return options;
}

std::string VerifyText(const ChainReport& report, const DecisionHead& head, bool complete,
                       bool kept) {
  if (!report.intact()) {
    return absl::StrCat("BROKEN: ", report.fault, ".\n", report.rows,
                        " rows before that are as they were written.\n");
  }
  const std::string key =
      report.keyed == 0 ? "SHA-256, no key" : absl::StrCat("HMAC-SHA-256, key ", head.key_id);
  if (!complete) {
    return absl::StrCat("As written: each of the ", report.rows, " rows you may see (", key,
                        ").\nThat none is missing among them shows only to the admin role, which "
                        "sees the whole chain.\n");
  }
  std::string text =
      absl::StrCat("INTACT: ", report.rows, " rows, each chained to the one before (", key,
                   ").\nlog   ", head.log_id, "\nhead  ", HeadText(head), "\n");
  if (report.keyed > 0 && report.keyed < report.rows) {
    absl::StrAppend(&text, "The first ", report.rows - report.keyed,
                    " rows are older than the key.\n");
  }
  if (kept) {
    absl::StrAppend(&text, "The kept head is in it: nothing up to there was removed or changed.\n");
  } else {
    absl::StrAppend(
        &text,
        "Keep the head where nobody who can write the ledger can change it, and give it as "
        "--head\nnext time: ",
        report.keyed > 0 ? "a ledger that was put back to an older copy of itself shows in no "
                           "other way.\n"
                         : "without a key, a log that was written anew from its beginning, or cut "
                           "together\nwith its head, shows in no other way.\n");
  }
  return text;
}

std::string VerifyJson(const ChainReport& report, const DecisionHead& head, bool complete,
                       bool kept) {
  json out{{"intact", report.intact()}, {"complete", complete},
           {"rows", report.rows},       {"keyed_rows", report.keyed},
           {"log_id", head.log_id},     {"head", HeadText(head)},
           {"key_id", head.key_id},     {"kept_head_found", kept && report.intact() && complete}};
  if (!report.intact()) out["fault"] = report.fault, out["fault_row"] = report.fault_row;
  return out.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

ParityBy ReadBy(const std::string& text) {
  if (text == "language") return ParityBy::kLanguage;
  return text == "class" ? ParityBy::kClass : ParityBy::kTenant;
}

// Every batch to its end.
absl::Status ForEachBatch(const ReadDecisions& read,
                          const std::function<absl::Status(const DecisionBatch&)>& use) {
  int64_t after = 0;
  for (;;) {
    LIFT_ASSIGN_OR_RETURN(const DecisionBatch batch, read(after));
    LIFT_RETURN_IF_ERROR(use(batch));
    if (batch.last || batch.page.rows.empty()) return absl::OkStatus();
    after = batch.page.rows.back().position;
  }
}

}  // namespace

absl::StatusOr<ReadDecisions> FromFile(const ClientOptions& o, const Period& period) {
  LIFT_ASSIGN_OR_RETURN(std::shared_ptr<DecisionFile> file, DecisionFile::Open(o.ledger_file));
  const DecisionQuery query{.tenant = o.usage_tenant,
                            .variant = o.usage_variant,
                            .begin = period.begin,
                            .end = period.end == 0 ? INT64_MAX : period.end};
  return [file, query](int64_t after) -> absl::StatusOr<DecisionBatch> {
    DecisionBatch batch{.complete = query.everything()};
    LIFT_ASSIGN_OR_RETURN(batch.page, file->Page(query, after, kPageRows));
    batch.last = batch.page.rows.size() < static_cast<size_t>(kPageRows);
    return batch;
  };
}

ReadDecisions FromServer(const ClientOptions& o, const Period& period, ListCall call) {
  api::ListRoutingDecisionsRequest request;
  request.set_tenant(o.usage_tenant);
  request.set_variant(o.usage_variant);
  if (period.begin > 0) request.mutable_begin()->set_seconds(period.begin);
  if (period.end > 0) request.mutable_end()->set_seconds(period.end);
  return [request, call = std::move(call)](int64_t after) -> absl::StatusOr<DecisionBatch> {
    auto asked = request;
    if (after > 0) asked.set_page_token(absl::StrCat(after));
    api::ListRoutingDecisionsResponse response;
    const grpc::Status status = call(asked, &response);
    if (!status.ok()) {
      return absl::Status(static_cast<absl::StatusCode>(status.error_code()), ErrorText(status));
    }
    DecisionBatch batch{.complete = response.complete(),
                        .last = response.next_page_token().empty()};
    for (const auto& row : response.decisions()) batch.page.rows.push_back(FromMessage(row));
    batch.page.head = FromMessage(response.head());
    return batch;
  };
}

absl::StatusOr<AuditAnswer> VerifyLog(const ClientOptions& o, const ReadDecisions& read) {
  std::unique_ptr<ChainVerifier> verifier;
  DecisionHead head;
  bool complete = true;
  LIFT_RETURN_IF_ERROR(ForEachBatch(read, [&](const DecisionBatch& batch) -> absl::Status {
    if (verifier == nullptr) {
      complete = batch.complete;
      LIFT_ASSIGN_OR_RETURN(auto options, VerifierOptions(o, complete));
      verifier = std::make_unique<ChainVerifier>(batch.page.head.log_id, std::move(options));
    }
    for (const RoutingDecision& row : batch.page.rows) verifier->Add(row);
    head = batch.page.head;
    return absl::OkStatus();
  }));
  const ChainReport report = verifier->Finish(head);
  if (report.needs_key) {
    return absl::InvalidArgumentError(
        absl::StrCat(report.fault, "; give the file with its secret with --audit-key-file"));
  }
  if (!complete && !o.audit_head.empty()) {
    return absl::InvalidArgumentError(
        "--head is of the whole log, which only the admin role sees; verify without it");
  }
  const bool kept = !o.audit_head.empty();
  return AuditAnswer{
      o.json ? VerifyJson(report, head, complete, kept) : VerifyText(report, head, complete, kept),
      !report.intact()};
}

absl::StatusOr<AuditAnswer> CompareLog(const ClientOptions& o, const ReadDecisions& read) {
  const ParityBy by = ReadBy(o.audit_by);
  ParityScope scope{.by = by, .served = o.measure == "served"};
  std::vector<ParityRow> rows;
  LIFT_RETURN_IF_ERROR(ForEachBatch(read, [&](const DecisionBatch& batch) {
    for (const RoutingDecision& decision : batch.page.rows) {
      ParityRow row;
      if (ToParityRow(decision, by, scope.served, row)) {
        rows.push_back(std::move(row));
      } else {
        ++scope.left_out;
      }
    }
    return absl::OkStatus();
  }));
  scope.options = {.alpha = o.alpha, .tolerance = o.tolerance};
  const ParityReport report = CompareGroups(std::move(rows), scope.options);
  return AuditAnswer{o.json ? ParityJson(report, scope) : ParityText(report, scope),
                     !report.fair()};
}

}  // namespace lift::client
