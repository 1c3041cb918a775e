// ListRoutingDecisions: what was decided is in the log with what it was made of, in pages that
// close as a chain, to whom it may be shown.
#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "server/audit/chain.h"
#include "server/audit/messages.h"
#include "tests/rpc/fixture.h"

namespace lift::test {
namespace {

class DecisionsTest : public RpcTest {
 protected:
  DecisionsTest()
      : folder_(std::filesystem::temp_directory_path() /
                ("decisions_test_" + std::to_string(getpid()))) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    ledger_path_ = folder_ / "ledger.db";
  }
  ~DecisionsTest() override { std::filesystem::remove_all(folder_); }
  void SetUp() override { Start(); }
  void Start() {
    StartServer({.max_batch = 16, .max_waiting = 64});
    usage_stub_ = api::UsageService::NewStub(channel_);
  }
  void Generate(const std::string& tenant, api::GenerateRequest request,
                const std::string& key = "") {
    grpc::ClientContext context;
    if (!tenant.empty()) context.AddMetadata("x-liftserve-tenant", tenant);
    if (!key.empty()) context.AddMetadata("authorization", "Bearer " + key);
    api::GenerateResponse response;
    const grpc::Status status = stub_->Generate(&context, request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    answers_.push_back(response);
  }
  grpc::Status List(const api::ListRoutingDecisionsRequest& request,
                    api::ListRoutingDecisionsResponse* response, const std::string& key = "") {
    grpc::ClientContext context;
    if (!key.empty()) context.AddMetadata("authorization", "Bearer " + key);
    return usage_stub_->ListRoutingDecisions(&context, request, response);
  }
  // Pages of this size, checked as the client does.
  ChainReport Verify(int page_size) {
    api::ListRoutingDecisionsRequest request;
    request.set_page_size(page_size);
    std::unique_ptr<ChainVerifier> verifier;
    for (;;) {
      api::ListRoutingDecisionsResponse page;
      EXPECT_TRUE(List(request, &page).ok());
      EXPECT_TRUE(page.complete());
      if (!verifier) {
        verifier = std::make_unique<ChainVerifier>(page.head().log_id(), ChainVerifier::Options{});
      }
      for (const auto& row : page.decisions()) verifier->Add(FromMessage(row));
      request.set_page_token(page.next_page_token());
      if (request.page_token().empty()) return verifier->Finish(FromMessage(page.head()));
    }
  }

  std::filesystem::path folder_;
  std::unique_ptr<api::UsageService::Stub> usage_stub_;
  std::vector<api::GenerateResponse> answers_;
};

TEST_F(DecisionsTest, ARowSaysWhatServedByAndTheRequestSaid) {
  auto request = Request("Was ist die Hauptstadt von Frankreich, und warum?", 6);
  request.set_request_id("mine");
  request.mutable_precision()->set_min_lambda(0.4);
  Generate("acme", request);
  Generate("acme", Request("x", 3, "coarse"));
  api::ListRoutingDecisionsResponse page;
  ASSERT_TRUE(List({}, &page).ok());
  ASSERT_EQ(page.decisions_size(), 2);
  const auto& row = page.decisions(0);
  const auto& served = answers_[0].served_by();
  EXPECT_EQ(row.position(), 1);
  EXPECT_EQ(row.request_id(), "mine");
  EXPECT_EQ(row.tenant(), "acme");
  EXPECT_EQ(row.weights_sha256(), served.weights_sha256());
  EXPECT_EQ(row.policy(), served.router_version());
  EXPECT_EQ(row.variant(), served.variant());
  EXPECT_EQ(row.lambda(), served.lambda());
  EXPECT_EQ(row.bits_per_weight(), served.bits_per_weight());
  EXPECT_EQ(row.score(), served.complexity_score());
  EXPECT_EQ("ROUTING_REASON_" + row.reason(), api::RoutingReason_Name(served.reason()));
  EXPECT_EQ(row.min_lambda(), 0.4);
  EXPECT_FALSE(row.pinned());
  EXPECT_EQ(row.language(), "de");
  EXPECT_EQ(row.prompt_class(), "question");
  EXPECT_EQ(row.prompt_tokens(), answers_[0].finished().usage().prompt_tokens());
  EXPECT_EQ(row.generated_tokens(), 6);
  EXPECT_EQ(row.served_lambda(), row.lambda());
  EXPECT_EQ(row.outcome(), "OK");
  EXPECT_EQ(row.resident_variants(), static_cast<int64_t>(info_.variants.size()));
  EXPECT_GT(row.time_micros(), int64_t{1600000000} * 1000000);
  EXPECT_TRUE(page.decisions(1).pinned());
  EXPECT_EQ(page.decisions(1).pinned_variant(), "coarse");
  EXPECT_EQ(page.decisions(1).reason(), "PINNED");
  // Nothing of the prompt.
  EXPECT_EQ(page.SerializeAsString().find("Hauptstadt"), std::string::npos);
}

TEST_F(DecisionsTest, PagesCloseAsAChainAlsoAfterARestart) {
  EXPECT_TRUE(Verify(10).intact());
  for (int i = 0; i < 7; ++i) Generate(i % 2 == 0 ? "acme" : "beta", Request("hello", 2));
  for (int size : {1, 3, 7, 100}) {
    const ChainReport report = Verify(size);
    EXPECT_TRUE(report.intact()) << report.fault;
    EXPECT_EQ(report.rows, 7);
  }
  StopServer(std::chrono::milliseconds(0));
  Start();
  Generate("acme", Request("hello", 2));
  EXPECT_TRUE(Verify(3).intact());
  EXPECT_EQ(Verify(3).rows, 8);
}

TEST_F(DecisionsTest, FiltersSayThatRowsAreLeftOut) {
  for (int i = 0; i < 5; ++i)
    Generate(i % 2 == 0 ? "acme" : "beta", Request("hello", 2, i < 2 ? "coarse" : "fine"));
  api::ListRoutingDecisionsRequest request;
  request.set_tenant("acme");
  request.set_page_size(2);
  api::ListRoutingDecisionsResponse page;
  ASSERT_TRUE(List(request, &page).ok());
  EXPECT_EQ(page.decisions_size(), 2);
  EXPECT_FALSE(page.complete());
  EXPECT_EQ(page.head().count(), 5);
  request.set_page_token(page.next_page_token());
  ASSERT_TRUE(List(request, &page).ok());
  EXPECT_EQ(page.decisions_size(), 1);
  EXPECT_TRUE(page.next_page_token().empty());
  api::ListRoutingDecisionsRequest fine;
  fine.set_variant("fine");
  ASSERT_TRUE(List(fine, &page).ok());
  EXPECT_EQ(page.decisions_size(), 3);
  api::ListRoutingDecisionsRequest later;
  later.mutable_begin()->set_seconds(int64_t{3600} * 24 * 365 * 200);
  ASSERT_TRUE(List(later, &page).ok());
  EXPECT_EQ(page.decisions_size(), 0);
}

TEST_F(DecisionsTest, WrongQuestionsAreRefusedByField) {
  const auto field = [&](const api::ListRoutingDecisionsRequest& request) {
    api::ListRoutingDecisionsResponse page;
    const grpc::Status status = List(request, &page);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    return DetailsOf(status).field();
  };
  api::ListRoutingDecisionsRequest token, negative, size, begin, end;
  token.set_page_token("nonsense");
  EXPECT_EQ(field(token), "page_token");
  negative.set_page_token("-1");
  EXPECT_EQ(field(negative), "page_token");
  size.set_page_size(1001);
  EXPECT_EQ(field(size), "page_size");
  begin.mutable_begin()->set_seconds(1800);
  EXPECT_EQ(field(begin), "begin");
  end.mutable_begin()->set_seconds(7200);
  end.mutable_end()->set_seconds(3600);
  EXPECT_EQ(field(end), "end");
  ledger_path_.clear();
  Start();
  api::ListRoutingDecisionsResponse page;
  const grpc::Status status = List({}, &page);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(DetailsOf(status).info.reason(), "NO_LEDGER");
}

// A request that fails its floor, or ends before it is routed, decided nothing.
TEST_F(DecisionsTest, WhatWasNotRoutedIsNotThere) {
  auto request = Request("hello", 2);
  request.mutable_precision()->set_min_lambda(0.99);
  grpc::ClientContext context;
  api::GenerateResponse response;
  EXPECT_EQ(stub_->Generate(&context, request, &response).error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
  api::ListRoutingDecisionsResponse page;
  ASSERT_TRUE(List({}, &page).ok());
  EXPECT_EQ(page.decisions_size(), 0);
  EXPECT_EQ(page.head().count(), 0);
}

class DecisionsAuthTest : public DecisionsTest {
 protected:
  void SetUp() override {
    const std::string path = folder_ / "keys.json";
    std::ofstream(path) << R"({"keys": [)" << KeyEntry(acme_, "acme", "user") << ","
                        << KeyEntry(other_, "other", "user") << ","
                        << KeyEntry(admin_, "ops", "admin") << "]}";
    auto access = Access::Open(path, std::chrono::hours(1), nullptr);
    ASSERT_TRUE(access.ok()) << access.status();
    opened_ = *std::move(access);
    access_ = opened_.get();
    Start();
  }
  void TearDown() override {
    RpcTest::TearDown();
    opened_.reset();
  }
  const NewKey acme_ = *MakeKey(), other_ = *MakeKey(), admin_ = *MakeKey();
  std::unique_ptr<Access> opened_;
};

TEST_F(DecisionsAuthTest, ATenantSeesItsOwnRowsAndTheAdminAll) {
  Generate("", Request("hello", 2), acme_.key);
  Generate("", Request("hello", 2), other_.key);
  Generate("", Request("hello", 2), acme_.key);
  api::ListRoutingDecisionsResponse page;
  ASSERT_TRUE(List({}, &page, acme_.key).ok());
  EXPECT_EQ(page.decisions_size(), 2);
  EXPECT_FALSE(page.complete());
  ChainVerifier own(page.head().log_id(), {.complete = false});
  for (const auto& row : page.decisions()) {
    EXPECT_EQ(row.tenant(), "acme");
    own.Add(FromMessage(row));
  }
  EXPECT_TRUE(own.Finish(FromMessage(page.head())).intact());
  ASSERT_TRUE(List({}, &page, admin_.key).ok());
  EXPECT_EQ(page.decisions_size(), 3);
  EXPECT_TRUE(page.complete());
  api::ListRoutingDecisionsRequest request;
  request.set_tenant("other");
  const grpc::Status foreign = List(request, &page, acme_.key);
  EXPECT_EQ(foreign.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(DetailsOf(foreign).info.reason(), "ADMIN_ONLY");
  EXPECT_EQ(List({}, &page, "").error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_TRUE(List(request, &page, admin_.key).ok());
  EXPECT_EQ(page.decisions_size(), 1);
}

}  // namespace
}  // namespace lift::test
