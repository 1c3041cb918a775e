// A whole server in this process over the fake model, and a client channel to it.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "liftserve/v1/generation.grpc.pb.h"
#include "liftserve/v1/model.grpc.pb.h"
#include "liftserve/v1/usage.grpc.pb.h"
#include "server/accounting/observers.h"
#include "server/accounting/server_ledger.h"
#include "server/metrics/probes.h"
#include "server/rpc/rpc_server.h"
#include "server/security/key_ring.h"
#include "tests/rpc/fake_model.h"

namespace lift::test {

namespace api = liftserve::v1;

class RpcTest : public ::testing::Test {
 protected:
  void SetUp() override { StartServer({.max_batch = 16, .max_waiting = 64}); }
  void TearDown() override { StopServer(std::chrono::milliseconds(0)); }

  void StartServer(EngineOptions options, bool with_template = true);
  void StopServer(std::chrono::milliseconds grace);

  static api::GenerateStreamRequest StreamRequest(const std::string& text, int tokens,
                                                  const std::string& variant);
  static api::GenerateRequest Request(const std::string& text, int tokens,
                                      const std::string& variant = "");
  // Token ids of plain text, BOS included.
  static std::vector<int32_t> Ids(const std::string& text);
  // Waits until the engine holds nothing any more; false after 5 s.
  bool AllSlotsFree();

  FakeModel model_;
  ModelInfo info_ = InfoOf(model_, "fake");
  BuildInfo build_{.version = "test", .build_type = "test"};
  UsageTotals usage_;
  std::unique_ptr<Probes> probes_;
  std::unique_ptr<ModelProbes> model_probes_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<Engine> engine_;
  const Access* access_ = nullptr;  // of the next StartServer
  rpc::Limits limits_;              // likewise
  std::string ledger_path_;         // likewise; empty = none
  std::unique_ptr<ServerLedger> ledger_;
  std::unique_ptr<ModelLedger> model_ledger_;
  std::unique_ptr<ObserverList> observers_;
  std::unique_ptr<rpc::SharedServices> shared_;
  std::unique_ptr<rpc::ModelSlot> slot_;
  std::unique_ptr<rpc::RpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<api::GenerationService::Stub> stub_;
  std::unique_ptr<api::ModelService::Stub> models_;
};

// A key as an entry of the server's keys file.
std::string KeyEntry(const NewKey& key, const std::string& tenant, const std::string& role);

// The details of a failed call.
struct Details {
  google::rpc::ErrorInfo info;
  google::rpc::BadRequest bad;
  google::rpc::RetryInfo retry;
  google::rpc::QuotaFailure quota{};
  google::rpc::PreconditionFailure precondition{};
  bool has_quota = false, has_precondition = false;
  bool has_info = false, has_bad = false, has_retry = false;
  std::string field() const { return has_bad ? bad.field_violations(0).field() : ""; }
};
Details DetailsOf(const grpc::Status& status);

}  // namespace lift::test
