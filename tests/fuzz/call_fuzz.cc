// Any bytes as the message of any call of a running server, through gRPC itself: every handler, its
// refusals and its answers. The first byte says which call; the rest are its messages, cut at 0xFF
// 0x00 where the call takes several.
#include <google/protobuf/descriptor.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "google/rpc/status.pb.h"
#include "inference/grpc_predict_v2.pb.h"
#include "kernels/base/check.h"
#include "liftserve/v1/generation.pb.h"
#include "liftserve/v1/model.pb.h"
#include "liftserve/v1/usage.pb.h"
#include "server/accounting/observers.h"
#include "server/accounting/server_ledger.h"
#include "server/metrics/probes.h"
#include "server/rpc/rpc_server.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/rpc/fake_model.h"
#include "vllm/grpc/vllm_engine.pb.h"

namespace {

using namespace lift;

struct Method {
  std::string path;
  bool client_streams;
};

std::vector<Method> AllMethods() {
  std::vector<Method> methods;
  for (const auto* file : {liftserve::v1::GenerateRequest::descriptor()->file(),
                           liftserve::v1::GetModelRequest::descriptor()->file(),
                           liftserve::v1::GetUsageRequest::descriptor()->file(),
                           inference::ModelInferRequest::descriptor()->file(),
                           vllm::grpc::engine::GenerateRequest::descriptor()->file()}) {
    for (int s = 0; s < file->service_count(); ++s) {
      const auto& service = *file->service(s);
      for (int m = 0; m < service.method_count(); ++m) {
        methods.push_back({"/" + service.full_name() + "/" + service.method(m)->name(),
                           service.method(m)->client_streaming()});
      }
    }
  }
  return methods;
}

// A server as lift-server assembles it, over the model without weights.
struct Fixture {
  test::FakeModel model;
  std::shared_ptr<const Tokenizer> tokenizer = *Tokenizer::Create(test::ByteTokenizerSpec());
  ModelInfo info = test::InfoOf(model, "fake");
  BuildInfo build;
  UsageTotals usage;
  Probes probes{usage};
  ModelProbes model_probes{probes, info};
  std::unique_ptr<ServerLedger> ledger = OpenLedger(usage);
  ModelLedger model_ledger{*ledger, info};
  ObserverList observers{{&model_probes, &model_ledger}};
  Engine engine{model, tokenizer, {.observer = &observers}};
  rpc::SharedServices shared{build, usage};
  rpc::ModelSlot slot{shared,
                      rpc::ServicesPtr(new rpc::ServiceContext{
                          engine, tokenizer, *ChatTemplate::Compile(test::kChatMl), info, shared})};
  std::unique_ptr<rpc::RpcServer> server;
  std::unique_ptr<grpc::GenericStub> stub;
  std::vector<Method> methods = AllMethods();

  Fixture() {
    shared.limits.max_answer_tokens = 64;  // so that inputs are short work
    shared.ledger = &ledger->ledger();
    server = rpc::RpcServer::Start(slot, {.listen = "127.0.0.1:0"}).value();
    server->SetServing(true);
    stub = std::make_unique<grpc::GenericStub>(
        grpc::CreateChannel(server->address(), grpc::InsecureChannelCredentials()));
  }

  static std::unique_ptr<ServerLedger> OpenLedger(const UsageTotals& usage) {
    const std::string path =
        (std::filesystem::temp_directory_path() / ("call_fuzz_" + std::to_string(getpid())))
            .string();
    auto opened = ServerLedger::Open({.path = path, .sync = LedgerSync::kNormal}, usage);
    for (const char* suffix : {"", "-wal", "-shm"}) std::filesystem::remove(path + suffix);
    return std::move(opened).value();
  }
};

// Waits for the one event that was asked for; false if the call says no.
bool Next(grpc::CompletionQueue& queue) {
  void* tag = nullptr;
  bool ok = false;
  return queue.Next(&tag, &ok) && ok;
}

grpc::Status Call(Fixture& fixture, const Method& method,
                  const std::vector<std::string>& messages) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  grpc::CompletionQueue queue;
  auto call = fixture.stub->PrepareCall(&context, method.path, &queue);
  call->StartCall(nullptr);
  bool open = Next(queue);
  for (size_t i = 0; open && i < messages.size(); ++i) {
    const grpc::Slice slice(messages[i]);
    call->Write(grpc::ByteBuffer(&slice, 1), nullptr);
    open = Next(queue);
    if (!method.client_streams) break;
  }
  if (open) {
    call->WritesDone(nullptr);
    Next(queue);
  }
  for (bool more = true; more;) {
    grpc::ByteBuffer response;
    call->Read(&response, nullptr);
    more = Next(queue);
  }
  grpc::Status status;
  call->Finish(&status, nullptr);
  LIFT_CHECK(Next(queue));
  return status;
}

// A refusal says what to change, in the canonical form; nothing is an accident of the server.
void CheckStatus(const grpc::Status& status) {
  if (status.ok()) return;
  LIFT_CHECK(!status.error_message().empty());
  LIFT_CHECK(status.error_code() != grpc::StatusCode::INTERNAL &&
             status.error_code() != grpc::StatusCode::UNKNOWN &&
             status.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED);
  google::rpc::Status details;
  LIFT_CHECK(details.ParseFromString(status.error_details()) && details.details_size() > 0);
  LIFT_CHECK(details.code() == static_cast<int>(status.error_code()));
}

// Soon after an answer nothing is held for it any more.
bool AllReturned(const Engine& engine) {
  for (int i = 0; i < 2000; ++i) {
    const EngineLoad load = engine.load();
    if (load.running == 0 && load.waiting == 0 && load.blocks_used == 0) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

std::vector<std::string> Cut(std::string_view bytes) {
  constexpr std::string_view kBorder("\xFF\0", 2);
  std::vector<std::string> messages;
  for (;;) {
    const size_t end = bytes.find(kBorder);
    messages.emplace_back(bytes.substr(0, end));
    if (end == std::string_view::npos || messages.size() >= 16) return messages;
    bytes.remove_prefix(end + kBorder.size());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static auto& fixture = *new Fixture;
  if (size == 0) return 0;
  const Method& method = fixture.methods[data[0] % fixture.methods.size()];
  CheckStatus(Call(fixture, method, Cut(InputText(data + 1, size - 1))));
  LIFT_CHECK(AllReturned(fixture.engine));
  return 0;
}
