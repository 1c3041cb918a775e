// lift-client: one call per run.
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "liftserve/v1/generation.grpc.pb.h"
#include "liftserve/v1/model.grpc.pb.h"
#include "liftserve/v1/usage.grpc.pb.h"
#include "server/client/audit.h"
#include "server/client/billing.h"
#include "server/client/options.h"
#include "server/client/report.h"
#include "server/client/requests.h"
#include "server/client/transport.h"

namespace lift::client {
namespace {

constexpr int kExitFailed = 1, kExitWrongInput = 2, kExitFound = 3;

int Report(const grpc::Status& status) {
  if (status.ok()) return 0;
  std::fprintf(stderr, "lift-client: %s\n", ErrorText(status).c_str());
  const bool input = status.error_code() == grpc::StatusCode::INVALID_ARGUMENT ||
                     status.error_code() == grpc::StatusCode::NOT_FOUND;
  return input ? kExitWrongInput : kExitFailed;
}

// One call's context with what every call carries.
class Call {
 public:
  explicit Call(const ClientOptions& options) {
    if (!options.api_key.empty()) {
      context_.AddMetadata("authorization", absl::StrCat("Bearer ", options.api_key));
    }
    if (!options.tenant.empty()) context_.AddMetadata("x-liftserve-tenant", options.tenant);
    if (options.deadline_seconds > 0) {
      context_.set_deadline(
          std::chrono::system_clock::now() +
          std::chrono::microseconds(static_cast<int64_t>(options.deadline_seconds * 1e6)));
    }
  }
  grpc::ClientContext* context() { return &context_; }

 private:
  grpc::ClientContext context_;
};

// Reads a stream to its end; prints text as it comes unless --json was given.
template <class Response>
int ReadAnswer(const ClientOptions& options, grpc::ClientReader<Response>& reader) {
  Answer answer;
  Response response;
  bool finished = false;
  while (reader.Read(&response)) {
    if (response.has_started()) answer.started.Swap(response.mutable_started());
    if (response.has_finished()) {
      answer.finished.Swap(response.mutable_finished());
      finished = true;
    }
    if (!response.has_delta()) continue;
    const api::Delta& delta = response.delta();
    answer.text += delta.text();
    answer.token_ids.insert(answer.token_ids.end(), delta.token_ids().begin(),
                            delta.token_ids().end());
    answer.logprobs.insert(answer.logprobs.end(), delta.logprobs().begin(), delta.logprobs().end());
    if (!options.json) {
      std::fwrite(delta.text().data(), 1, delta.text().size(), stdout);
      std::fflush(stdout);
    }
  }
  const grpc::Status status = reader.Finish();
  if (!options.json && !answer.text.empty()) {
    std::puts("");
    std::fflush(stdout);  // before the summary, also where both streams go to one file
  }
  if (!options.json && finished) std::fputs(AnswerSummary(answer).c_str(), stderr);
  if (options.json && status.ok()) {
    std::puts(
        AnswerJson(answer).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  }
  return Report(status);
}

// Runs a unary call and prints its response as protobuf JSON.
template <class Response, class F>
int Ask(const ClientOptions& options, F&& call) {
  Call scope(options);
  Response response;
  const grpc::Status status = call(scope.context(), &response);
  if (status.ok()) std::puts(MessageJson(response, !options.json).c_str());
  return Report(status);
}

int WrongInput(const absl::Status& status) {
  std::fprintf(stderr, "lift-client: %s\n", std::string(status.message()).c_str());
  return kExitWrongInput;
}

int RunGeneration(const ClientOptions& o, const std::shared_ptr<grpc::Channel>& channel) {
  auto stub = api::GenerationService::NewStub(channel);
  Call scope(o);
  if (o.command == "generate") {
    const auto request = ToGenerate(o);
    if (!request.ok()) return WrongInput(request.status());
    return ReadAnswer(o, *stub->GenerateStream(scope.context(), *request));
  }
  if (o.command == "chat") {
    const auto request = ToChat(o);
    if (!request.ok()) return WrongInput(request.status());
    return ReadAnswer(o, *stub->ChatStream(scope.context(), *request));
  }
  if (o.command == "explain") {
    api::ExplainRouteRequest request;
    request.set_model(o.model);
    request.set_text(o.prompt);
    *request.mutable_precision() = ToPrecision(o);
    return Ask<api::ExplainRouteResponse>(
        o, [&](auto* c, auto* r) { return stub->ExplainRoute(c, request, r); });
  }
  if (o.command == "cancel") {
    api::CancelGenerationRequest request;
    request.set_request_id(o.request_id);
    return Ask<api::CancelGenerationResponse>(
        o, [&](auto* c, auto* r) { return stub->CancelGeneration(c, request, r); });
  }
  if (o.command == "tokenize") {
    api::TokenizeRequest request;
    request.set_model(o.model);
    request.set_text(o.prompt);
    request.set_add_special_tokens(o.add_special);
    request.set_parse_special_tokens(o.parse_special);
    return Ask<api::TokenizeResponse>(
        o, [&](auto* c, auto* r) { return stub->Tokenize(c, request, r); });
  }
  api::DetokenizeRequest request;
  request.set_model(o.model);
  request.mutable_token_ids()->Add(o.token_ids.begin(), o.token_ids.end());
  return Ask<api::DetokenizeResponse>(
      o, [&](auto* c, auto* r) { return stub->Detokenize(c, request, r); });
}

absl::StatusOr<std::string> UsageText(const ClientOptions& o, api::UsageService::Stub& stub,
                                      grpc::Status& status) {
  LIFT_ASSIGN_OR_RETURN(const Period period, ReadPeriod(o));
  if (o.command == "records") {
    RecordWriter writer(o.format);
    auto request = RecordsRequest(o, period);
    do {
      Call scope(o);
      api::ListUsageRecordsResponse page;
      status = stub.ListUsageRecords(scope.context(), request, &page);
      if (!status.ok()) return std::string();
      writer.Add(page);
      request.set_page_token(page.next_page_token());
    } while (!request.page_token().empty());
    return writer.Take();
  }
  Call scope(o);
  api::GetUsageResponse usage;
  status = stub.GetUsage(scope.context(), UsageRequest(o, period), &usage);
  if (!status.ok()) return std::string();
  if (o.command == "bill") return BillText(o, period, usage);
  return o.format == "csv" ? UsageCsv(usage) : MessageJson(usage, !o.json) + "\n";
}

// usage, records, bill.
int RunBilling(const ClientOptions& o, const std::shared_ptr<grpc::Channel>& channel) {
  auto stub = api::UsageService::NewStub(channel);
  grpc::Status status;
  const auto text = UsageText(o, *stub, status);
  if (!text.ok()) {
    std::fprintf(stderr, "lift-client: %s\n", std::string(text.status().message()).c_str());
    return kExitWrongInput;
  }
  std::fputs(text->c_str(), stdout);
  return Report(status);
}

int ReportAudit(const absl::StatusOr<AuditAnswer>& answer) {
  if (answer.ok()) {
    std::fputs(answer->text.c_str(), stdout);
    return answer->found ? kExitFound : 0;
  }
  std::fprintf(stderr, "lift-client: %s\n", std::string(answer.status().message()).c_str());
  return absl::IsInvalidArgument(answer.status()) ? kExitWrongInput : kExitFailed;
}

// audit verify, audit parity. `channel` is only used without --ledger.
int RunAudit(const ClientOptions& o, const std::shared_ptr<grpc::Channel>& channel) {
  const auto period = ReadPeriod(o);
  if (!period.ok()) return WrongInput(period.status());
  const auto ask = [&](const ReadDecisions& read) {
    return ReportAudit(o.command == "audit-verify" ? VerifyLog(o, read) : CompareLog(o, read));
  };
  if (!o.ledger_file.empty()) {
    const auto read = FromFile(o, *period);
    return read.ok() ? ask(*read) : ReportAudit(read.status());
  }
  auto stub = api::UsageService::NewStub(channel);
  return ask(FromServer(o, *period, [&](const auto& request, auto* response) {
    Call scope(o);
    return stub->ListRoutingDecisions(scope.context(), request, response);
  }));
}

int RunHealth(const ClientOptions& o, const std::shared_ptr<grpc::Channel>& channel) {
  namespace health = grpc::health::v1;
  health::HealthCheckRequest request;
  request.set_service(o.service);
  auto stub = health::Health::NewStub(channel);
  bool serving = false;
  const int code = Ask<health::HealthCheckResponse>(o, [&](auto* c, auto* r) {
    const grpc::Status status = stub->Check(c, request, r);
    serving = r->status() == health::HealthCheckResponse::SERVING;
    return status;
  });
  return code == 0 && !serving ? kExitFailed : code;
}

int Run(ClientOptions o) {
  auto key = ReadApiKey(o);
  if (!key.ok()) return WrongInput(key.status());
  o.api_key = *std::move(key);
  const auto connected = Connect(o);
  if (!connected.ok()) return WrongInput(connected.status());
  const std::shared_ptr<grpc::Channel>& channel = *connected;
  auto models = api::ModelService::NewStub(channel);
  if (o.command == "models") {
    return Ask<api::ListModelsResponse>(
        o, [&](auto* c, auto* r) { return models->ListModels(c, {}, r); });
  }
  if (o.command == "info") {
    return Ask<api::GetServerInfoResponse>(
        o, [&](auto* c, auto* r) { return models->GetServerInfo(c, {}, r); });
  }
  if (o.command == "load") {
    return Ask<api::GetLoadResponse>(o,
                                     [&](auto* c, auto* r) { return models->GetLoad(c, {}, r); });
  }
  if (o.command == "budget") {
    api::SetMemoryBudgetRequest request;
    request.set_weight_bytes(o.weight_bytes);
    return Ask<api::SetMemoryBudgetResponse>(
        o, [&](auto* c, auto* r) { return models->SetMemoryBudget(c, request, r); });
  }
  if (o.command == "swap") {
    api::SwapModelRequest request;
    request.set_model(o.model);
    request.set_file(o.file);
    return Ask<api::SwapModelResponse>(
        o, [&](auto* c, auto* r) { return models->SwapModel(c, request, r); });
  }
  if (o.command == "usage" || o.command == "records" || o.command == "bill") {
    return RunBilling(o, channel);
  }
  if (o.command.starts_with("audit-")) return RunAudit(o, channel);
  if (o.command == "health") return RunHealth(o, channel);
  return RunGeneration(o, channel);
}

}  // namespace
}  // namespace lift::client

int main(int argc, char** argv) {
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);  // its errors arrive as statuses
  using namespace lift::client;
  const auto parsed = ParseCommandLine(argc, argv, "lift-client " LIFTSERVE_VERSION);
  if (!parsed.ok()) return WrongInput(parsed.status());
  if (parsed->print) {
    std::fputs(parsed->print->c_str(), stdout);
    return 0;
  }
  return Run(parsed->options);
}
