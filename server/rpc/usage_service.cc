#include "server/rpc/usage_service.h"

#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/audit/messages.h"
#include "server/errors.h"
#include "server/rpc/status_map.h"
#include "server/rpc/timestamps.h"
#include "server/rpc/unary_answer.h"

namespace lift::rpc {
namespace {

namespace api = liftserve::v1;

constexpr int64_t kHour = 3600, kMillion = 1000000;
constexpr int kMostRecords = 1000;

void SetByteTime(ByteMicros value, api::ByteTime& out) {
  out.set_byte_seconds(static_cast<uint64_t>(value / kMillion));
  out.set_micros(static_cast<uint32_t>(value % kMillion));
}

absl::Status Invalid(const char* field, const std::string& what) {
  return WithReason(absl::InvalidArgumentError(absl::StrCat(field, " ", what)), "INVALID_FIELD",
                    field);
}

absl::Status NeedsLedger(const char* what) {
  return WithReason(absl::FailedPreconditionError(absl::StrCat(
                        what, " needs a ledger; start lift-server with --ledger FILE")),
                    "NO_LEDGER");
}

template <class Request>
absl::Status ReadPeriod(const Request& request, Ledger::Query& query) {
  const auto read = [](const char* field, const google::protobuf::Timestamp& time,
                       int64_t& out) -> absl::Status {
    constexpr int64_t kMost = int64_t{1} << 40;  // far beyond any date a timestamp can hold
    if (time.nanos() != 0 || time.seconds() % kHour != 0 || time.seconds() < 0 ||
        time.seconds() > kMost) {
      return Invalid(field, "must be a full hour since 1970: the ledger is kept by hour");
    }
    out = time.seconds();
    return absl::OkStatus();
  };
  if (request.has_begin()) LIFT_RETURN_IF_ERROR(read("begin", request.begin(), query.begin));
  if (request.has_end()) LIFT_RETURN_IF_ERROR(read("end", request.end(), query.end));
  if (query.begin >= query.end) return Invalid("end", "must be after begin");
  return absl::OkStatus();
}

// Tenants may ask for what is theirs; the admin role for everything.
absl::Status Restrict(const Caller& caller, Ledger::Query& query) {
  if (caller.role == Role::kAdmin) return absl::OkStatus();
  if (query.tenant.empty()) query.tenant = caller.tenant;
  if (query.tenant == caller.tenant) return absl::OkStatus();
  return WithReason(
      absl::PermissionDeniedError("the usage of other tenants needs a key whose role is admin"),
      "ADMIN_ONLY");
}

void AddEntry(const LedgerSum& sum, bool with_period, api::GetUsageResponse& response) {
  auto& entry = *response.add_entries();
  entry.set_tenant(sum.tenant);
  entry.set_variant(sum.variant);
  entry.set_lambda(sum.lambda);
  entry.set_weight_byte_seconds(ByteSeconds(sum.weight_byte_us));
  entry.set_kv_byte_seconds(ByteSeconds(sum.kv_byte_us));
  SetByteTime(sum.weight_byte_us, *entry.mutable_weight());
  SetByteTime(sum.kv_byte_us, *entry.mutable_kv());
  entry.set_requests(static_cast<uint64_t>(sum.requests));
  entry.set_prompt_tokens(static_cast<uint64_t>(sum.prompt_tokens));
  entry.set_generated_tokens(static_cast<uint64_t>(sum.generated_tokens));
  if (with_period) *entry.mutable_period_start() = ToTimestamp(sum.period * kMillion);
}

void SetTotal(ByteMicros total, api::GetUsageResponse& response) {
  response.set_total_byte_seconds(ByteSeconds(total));
  SetByteTime(total, *response.mutable_total());
}

absl::Status FromMemory(const UsageTotals& usage, const Ledger::Query& query,
                        api::GetUsageResponse& response) {
  ByteMicros total = 0;
  for (const auto& [key, cell] : usage.Snapshot()) {
    total += cell.weight_byte_us + cell.kv_byte_us;
    LedgerSum sum;
    sum.tenant = key.first;
    sum.variant = key.second;
    sum.lambda = cell.lambda;
    if (!query.tenant.empty() && query.tenant != sum.tenant) continue;
    if (!query.variant.empty() && query.variant != sum.variant) continue;
    sum.weight_byte_us = cell.weight_byte_us;
    sum.kv_byte_us = cell.kv_byte_us;
    sum.requests = static_cast<int64_t>(cell.requests);
    sum.prompt_tokens = static_cast<int64_t>(cell.prompt_tokens);
    sum.generated_tokens = static_cast<int64_t>(cell.generated_tokens);
    AddEntry(sum, /*with_period=*/false, response);
  }
  SetTotal(total, response);
  *response.mutable_since() = ToTimestamp(UnixMicros(usage.since()));
  return absl::OkStatus();
}

absl::Status FromLedger(const Ledger& ledger, const Ledger::Query& query,
                        Ledger::Granularity granularity, api::GetUsageResponse& response) {
  // Everything is read and then filtered: the total is of everything.
  const Ledger::Query all{.begin = query.begin, .end = query.end};
  LIFT_ASSIGN_OR_RETURN(const std::vector<LedgerSum> sums, ledger.Sums(all, granularity));
  ByteMicros total = 0;
  for (const LedgerSum& sum : sums) {
    total += sum.weight_byte_us + sum.kv_byte_us;
    if (!query.tenant.empty() && query.tenant != sum.tenant) continue;
    if (!query.variant.empty() && query.variant != sum.variant) continue;
    AddEntry(sum, granularity != Ledger::Granularity::kTotal, response);
  }
  SetTotal(total, response);
  *response.mutable_since() = ToTimestamp(ledger.began_us());
  response.set_durable(true);
  return absl::OkStatus();
}

void FillRecord(const LedgerRecord& record, api::UsageRecord& out) {
  out.set_epoch(record.epoch);
  out.set_sequence(record.sequence);
  out.set_state(static_cast<api::UsageRecordState>(static_cast<int>(record.state) + 1));
  out.set_request_id(record.request_id);
  out.set_tenant(record.tenant);
  out.set_variant(record.variant);
  out.set_code(record.code);
  out.set_finish_reason(record.finish_reason);
  *out.mutable_started() = ToTimestamp(record.started_us);
  if (record.finished_us > 0) *out.mutable_finished() = ToTimestamp(record.finished_us);
  out.set_prompt_tokens(record.prompt_tokens);
  out.set_cached_tokens(record.cached_tokens);
  out.set_generated_tokens(record.generated_tokens);
  for (const LedgerLine& line : record.lines) {
    auto& l = *out.add_lines();
    *l.mutable_hour() = ToTimestamp(line.hour * kMillion);
    l.set_variant(line.variant);
    l.set_lambda(line.lambda);
    SetByteTime(line.weight_byte_us, *l.mutable_weight());
    SetByteTime(line.kv_byte_us, *l.mutable_kv());
  }
}

// INVALID_ARGUMENT; 0 = the most.
template <class Request>
absl::StatusOr<int> PageSize(const Request& request) {
  const int size = request.page_size() == 0 ? kMostRecords : request.page_size();
  if (size > 0 && size <= kMostRecords) return size;
  return Invalid("page_size", absl::StrCat("must be from 0 to ", kMostRecords));
}

absl::Status FillPage(const Ledger& ledger, const Ledger::Query& query,
                      const api::ListUsageRecordsRequest& request,
                      api::ListUsageRecordsResponse& response) {
  std::pair<int64_t, int64_t> after{0, 0};
  if (!request.page_token().empty()) {
    const std::vector<std::string> parts = absl::StrSplit(request.page_token(), '.');
    if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &after.first) ||
        !absl::SimpleAtoi(parts[1], &after.second)) {
      return Invalid("page_token", "is not one that this call returned");
    }
  }
  LIFT_ASSIGN_OR_RETURN(const int size, PageSize(request));
  LIFT_ASSIGN_OR_RETURN(const std::vector<LedgerRecord> records,
                        ledger.Records(query, after.first, after.second, size));
  for (const LedgerRecord& record : records) FillRecord(record, *response.add_records());
  if (records.size() == static_cast<size_t>(size)) {
    response.set_next_page_token(absl::StrCat(records.back().epoch, ".", records.back().sequence));
  }
  return absl::OkStatus();
}

absl::Status FillDecisions(const Ledger& ledger, const Ledger::Query& query,
                           const api::ListRoutingDecisionsRequest& request,
                           api::ListRoutingDecisionsResponse& response) {
  int64_t after = 0;
  if (!request.page_token().empty() &&
      (!absl::SimpleAtoi(request.page_token(), &after) || after < 0)) {
    return Invalid("page_token", "is not one that this call returned");
  }
  LIFT_ASSIGN_OR_RETURN(const int size, PageSize(request));
  const DecisionQuery asked{
      .tenant = query.tenant, .variant = query.variant, .begin = query.begin, .end = query.end};
  LIFT_ASSIGN_OR_RETURN(const DecisionPage page, ledger.Decisions(asked, after, size));
  for (const RoutingDecision& row : page.rows) *response.add_decisions() = ToMessage(row);
  if (page.rows.size() == static_cast<size_t>(size)) {
    response.set_next_page_token(absl::StrCat(page.rows.back().position));
  }
  *response.mutable_head() = ToMessage(page.head);
  response.set_complete(asked.everything());
  return absl::OkStatus();
}

// Authenticates, parses and reads what the requests share.
template <class Request>
absl::Status Prepare(const SharedServices& shared, const grpc::CallbackServerContext& context,
                     const grpc::ByteBuffer& in, Request& request, Ledger::Query& query) {
  LIFT_ASSIGN_OR_RETURN(const Caller caller, CallerOf(shared, context));
  LIFT_RETURN_IF_ERROR(ParseMessage(in, request));
  query.tenant = request.tenant();
  query.variant = request.variant();
  LIFT_RETURN_IF_ERROR(ReadPeriod(request, query));
  return Restrict(caller, query);
}

// Runs `fill(response)` on `worker` and ends the call with what it says.
template <class Response, class F>
grpc::ServerUnaryReactor* AnswerLater(Worker& worker, grpc::CallbackServerContext* context,
                                      grpc::ByteBuffer* out, F fill) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  worker.Post([context, reactor, out, fill = std::move(fill)] {
    Response response;
    const absl::Status status = fill(response);
    if (status.ok()) *out = SerializeMessage(response);
    reactor->Finish(FinishStatus(context, status));
  });
  return reactor;
}

}  // namespace

grpc::ServerUnaryReactor* UsageService::GetUsage(Context* context, const Bytes* in, Bytes* out) {
  api::GetUsageRequest request;
  Ledger::Query query;
  absl::Status status = Prepare(slot_.shared(), *context, *in, request, query);
  auto granularity = Ledger::Granularity::kTotal;
  if (request.granularity() == api::USAGE_GRANULARITY_HOUR)
    granularity = Ledger::Granularity::kHour;
  if (request.granularity() == api::USAGE_GRANULARITY_DAY) granularity = Ledger::Granularity::kDay;
  if (status.ok() && !api::UsageGranularity_IsValid(request.granularity())) {
    status = Invalid("granularity", "must be TOTAL, HOUR or DAY");
  }
  const Ledger* ledger = slot_.shared().ledger;
  if (status.ok() && ledger == nullptr &&
      (request.has_begin() || request.has_end() || granularity != Ledger::Granularity::kTotal)) {
    status = NeedsLedger("a period");
  }
  if (!status.ok()) return UnaryCall::End(context, status);
  return AnswerLater<api::GetUsageResponse>(
      reader_, context, out, [this, ledger, query, granularity](auto& response) {
        if (ledger == nullptr) return FromMemory(slot_.shared().usage, query, response);
        return FromLedger(*ledger, query, granularity, response);
      });
}

grpc::ServerUnaryReactor* UsageService::ListUsageRecords(Context* context, const Bytes* in,
                                                         Bytes* out) {
  api::ListUsageRecordsRequest request;
  Ledger::Query query;
  absl::Status status = Prepare(slot_.shared(), *context, *in, request, query);
  if (status.ok() && slot_.shared().ledger == nullptr) status = NeedsLedger("ListUsageRecords");
  if (!status.ok()) return UnaryCall::End(context, status);
  return AnswerLater<api::ListUsageRecordsResponse>(
      reader_, context, out, [ledger = slot_.shared().ledger, query, request](auto& response) {
        return FillPage(*ledger, query, request, response);
      });
}

grpc::ServerUnaryReactor* UsageService::ListRoutingDecisions(Context* context, const Bytes* in,
                                                             Bytes* out) {
  api::ListRoutingDecisionsRequest request;
  Ledger::Query query;
  absl::Status status = Prepare(slot_.shared(), *context, *in, request, query);
  if (status.ok() && slot_.shared().ledger == nullptr) status = NeedsLedger("ListRoutingDecisions");
  if (!status.ok()) return UnaryCall::End(context, status);
  return AnswerLater<api::ListRoutingDecisionsResponse>(
      reader_, context, out, [ledger = slot_.shared().ledger, query, request](auto& response) {
        return FillDecisions(*ledger, query, request, response);
      });
}

}  // namespace lift::rpc
