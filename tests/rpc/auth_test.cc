// Keys, tenants, quotas and caps as a client meets them.
#include <gmock/gmock.h>

#include <fstream>

#include "absl/strings/str_cat.h"
#include "server/metrics/scrape.h"
#include "tests/rpc/fixture.h"

namespace lift::test {
namespace {

using Status = grpc::Status;

class AuthTest : public RpcTest {
 protected:
  void SetUp() override {
    const std::string path = testing::TempDir() + "auth_keys.json";
    std::ofstream(path) << R"({"keys": [)" << KeyEntry(acme_, "acme", "user") << ","
                        << KeyEntry(other_, "other", "user") << ","
                        << KeyEntry(admin_, "ops", "admin")
                        << R"(], "quotas": {"acme": {"max_concurrent": 1, "tokens_per_second": 1,
                                                     "burst_seconds": 5000}}})";
    auto access = Access::Open(path, std::chrono::hours(1), nullptr);
    ASSERT_TRUE(access.ok()) << access.status();
    opened_ = *std::move(access);
    access_ = opened_.get();
    RpcTest::SetUp();
  }
  void TearDown() override {
    RpcTest::TearDown();
    opened_.reset();
  }

  static void SetKey(grpc::ClientContext& context, const std::string& key) {
    context.AddMetadata("authorization", "Bearer " + key);
  }
  Status Generate(const std::string& key, int tokens, const std::string& tenant = "") {
    grpc::ClientContext context;
    if (!key.empty()) SetKey(context, key);
    if (!tenant.empty()) context.AddMetadata("x-liftserve-tenant", tenant);
    api::GenerateResponse response;
    return stub_->Generate(&context, Request("hi", tokens), &response);
  }
  std::unique_ptr<grpc::ClientReader<api::GenerateStreamResponse>> Hold(
      grpc::ClientContext& context, const std::string& key, const std::string& id) {
    SetKey(context, key);
    auto request = StreamRequest("hold", 4000, "fine");
    request.set_request_id(id);
    auto reader = stub_->GenerateStream(&context, request);
    api::GenerateStreamResponse response;
    EXPECT_TRUE(reader->Read(&response));
    return reader;
  }

  const NewKey acme_ = *MakeKey(), other_ = *MakeKey(), admin_ = *MakeKey();
  std::unique_ptr<Access> opened_;
};

TEST_F(AuthTest, EveryCallWantsAKey) {
  EXPECT_TRUE(Generate(acme_.key, 2).ok());
  const Status missing = Generate("", 2), wrong = Generate(acme_.key + "x", 2);
  EXPECT_EQ(missing.error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(DetailsOf(missing).info.reason(), "MISSING_CREDENTIALS");
  EXPECT_EQ(wrong.error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(DetailsOf(wrong).info.reason(), "INVALID_CREDENTIALS");

  grpc::ClientContext list, load, tokenize, header, basic;
  api::ListModelsResponse models;
  EXPECT_EQ(models_->ListModels(&list, {}, &models).error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
  api::TokenizeRequest text;
  text.set_text("x");
  api::TokenizeResponse tokens;
  EXPECT_EQ(stub_->Tokenize(&tokenize, text, &tokens).error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
  header.AddMetadata("x-api-key", other_.key);
  EXPECT_TRUE(models_->ListModels(&header, {}, &models).ok());
  basic.AddMetadata("authorization", "Basic eDp5");
  EXPECT_EQ(models_->ListModels(&basic, {}, &models).error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
}

TEST_F(AuthTest, TheHeaderCannotNameAnotherTenant) {
  EXPECT_TRUE(Generate(other_.key, 2, "other").ok());
  const Status stolen = Generate(other_.key, 2, "acme");
  EXPECT_EQ(stolen.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(DetailsOf(stolen).info.reason(), "TENANT_MISMATCH");
}

TEST_F(AuthTest, OneTenantCannotCancelAnothersRequest) {
  model_.step_micros = 2000;
  grpc::ClientContext held;
  auto reader = Hold(held, acme_.key, "mine");
  const auto cancel = [&](const std::string& key) {
    grpc::ClientContext context;
    SetKey(context, key);
    api::CancelGenerationRequest request;
    request.set_request_id("mine");
    api::CancelGenerationResponse response;
    EXPECT_TRUE(stub_->CancelGeneration(&context, request, &response).ok());
    return response.cancelled();
  };
  EXPECT_FALSE(cancel(other_.key));
  EXPECT_TRUE(cancel(acme_.key));
  held.TryCancel();
  EXPECT_TRUE(AllSlotsFree());
}

TEST_F(AuthTest, QuotasAreTypedErrorsAndOthersAreUnaffected) {
  model_.step_micros = 2000;
  grpc::ClientContext held;
  auto reader = Hold(held, acme_.key, "held");
  const Status second = Generate(acme_.key, 2);
  EXPECT_EQ(second.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  const Details details = DetailsOf(second);
  EXPECT_EQ(details.info.reason(), "TENANT_QUOTA");
  ASSERT_TRUE(details.has_quota && details.has_retry);
  EXPECT_EQ(details.quota.violations(0).subject(), "tenant:acme");
  EXPECT_GT(details.retry.retry_delay().nanos(), 0);
  EXPECT_TRUE(Generate(other_.key, 2).ok());
  held.TryCancel();
  EXPECT_TRUE(AllSlotsFree());
  // The cancelled stream's unused tokens came back, so only what it used is missing of 5000.
  EXPECT_TRUE(Generate(acme_.key, 2000).ok());
  EXPECT_EQ(DetailsOf(Generate(acme_.key, 4000)).info.reason(), "TENANT_QUOTA");
}

TEST_F(AuthTest, ATenantSeesItsOwnUsageOnly) {
  ASSERT_TRUE(Generate(acme_.key, 2).ok());
  ASSERT_TRUE(Generate(other_.key, 2).ok());
  ASSERT_TRUE(AllSlotsFree());
  auto usage = api::UsageService::NewStub(channel_);
  const auto tenants = [&](const std::string& key) {
    grpc::ClientContext context;
    SetKey(context, key);
    api::GetUsageResponse response;
    EXPECT_TRUE(usage->GetUsage(&context, {}, &response).ok());
    std::set<std::string> names;
    for (const auto& entry : response.entries()) names.insert(entry.tenant());
    return names;
  };
  EXPECT_THAT(tenants(acme_.key), testing::ElementsAre("acme"));
  EXPECT_THAT(tenants(admin_.key), testing::IsSupersetOf({"acme", "other"}));
}

// A stream lives through its variant leaving memory and coming back; who pinned it keeps it.
TEST_F(AuthTest, VariantsLeaveAndReturnUnderAnAdministrator) {
  const auto unload = [&](const std::string& key, const std::string& variant,
                          api::UnloadVariantResponse* response) {
    grpc::ClientContext context;
    SetKey(context, key);
    api::UnloadVariantRequest request;
    request.set_variant(variant);
    return models_->UnloadVariant(&context, request, response);
  };
  api::UnloadVariantResponse gone;
  const Status user = unload(other_.key, "fine", &gone);
  EXPECT_EQ(user.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(DetailsOf(user).info.reason(), "ADMIN_ONLY");

  model_.step_micros = 1000;
  grpc::ClientContext held;
  auto pinned = Hold(held, other_.key, "pinned");
  EXPECT_EQ(DetailsOf(unload(admin_.key, "fine", &gone)).info.reason(), "PRECISION_IN_USE");
  held.TryCancel();
  ASSERT_TRUE(AllSlotsFree());

  ASSERT_TRUE(unload(admin_.key, "middle", &gone).ok());
  EXPECT_THAT(gone.resident_variants(), testing::ElementsAre("coarse"));
  EXPECT_EQ(DetailsOf(unload(admin_.key, "coarse", &gone)).info.reason(), "LAST_VARIANT");
  EXPECT_EQ(unload(admin_.key, "nonesuch", &gone).error_code(), grpc::StatusCode::NOT_FOUND);
  auto health = grpc::health::v1::Health::NewStub(channel_);
  grpc::health::v1::HealthCheckRequest which;
  which.set_service("fake/fine");
  const auto serving = [&] {
    grpc::ClientContext context;
    grpc::health::v1::HealthCheckResponse response;
    EXPECT_TRUE(health->Check(&context, which, &response).ok());
    return response.status() == grpc::health::v1::HealthCheckResponse::SERVING;
  };
  EXPECT_FALSE(serving());
  grpc::ClientContext refused, load;
  SetKey(refused, other_.key);
  api::GenerateResponse answer;
  EXPECT_FALSE(stub_->Generate(&refused, Request("x", 2, "fine"), &answer).ok());
  SetKey(load, admin_.key);
  api::LoadVariantRequest back;
  back.set_variant("fine");
  api::LoadVariantResponse loaded;
  ASSERT_TRUE(models_->LoadVariant(&load, back, &loaded).ok());
  EXPECT_THAT(loaded.resident_variants(), testing::ElementsAre("coarse", "middle", "fine"));
  EXPECT_TRUE(serving());
  grpc::ClientContext again;
  SetKey(again, other_.key);
  ASSERT_TRUE(stub_->Generate(&again, Request("x", 9, "fine"), &answer).ok());
  EXPECT_EQ(answer.text(), FakeModel::Expected(Ids("x"), 2, 9));
}

TEST_F(AuthTest, ABudgetKeepsWhatFitsAndNamesWhoIsInItsWay) {
  const auto budget = [&](const std::string& key, uint64_t bytes,
                          api::SetMemoryBudgetResponse* response) {
    grpc::ClientContext context;
    SetKey(context, key);
    api::SetMemoryBudgetRequest request;
    request.set_weight_bytes(bytes);
    return models_->SetMemoryBudget(&context, request, response);
  };
  api::SetMemoryBudgetResponse kept;
  EXPECT_EQ(DetailsOf(budget(other_.key, 1, &kept)).info.reason(), "ADMIN_ONLY");
  const Status small = budget(admin_.key, 250999, &kept);
  EXPECT_EQ(small.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(DetailsOf(small).info.reason(), "BUDGET_TOO_SMALL");
  EXPECT_THAT(small.error_message(), testing::HasSubstr("needs 251000"));

  model_.step_micros = 1000;
  grpc::ClientContext first, second;
  auto one = Hold(first, other_.key, "one"), two = Hold(second, admin_.key, "two");
  const Status busy = budget(admin_.key, 501000, &kept);
  EXPECT_EQ(busy.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  const Details details = DetailsOf(busy);
  EXPECT_EQ(details.info.reason(), "PRECISION_IN_USE");
  ASSERT_EQ(details.precondition.violations_size(), 2);
  EXPECT_EQ(details.precondition.violations(0).subject(), "request:one");
  EXPECT_EQ(details.precondition.violations(1).subject(), "request:two");
  EXPECT_EQ(engine_->resident_variants(), 3);
  first.TryCancel();
  second.TryCancel();
  ASSERT_TRUE(AllSlotsFree());

  ASSERT_TRUE(budget(admin_.key, 501000, &kept).ok());
  EXPECT_THAT(kept.resident_variants(), testing::ElementsAre("coarse", "middle"));
  EXPECT_EQ(kept.resident_bytes(), 501000u);
  const ScrapeGauges gauges(*probes_, build_, OneModel(info_, [&] { return engine_->load(); }));
  const std::string text = ExpositionText(*probes_, gauges);
  EXPECT_THAT(text, testing::HasSubstr("variant=\"middle\",device=\"cpu\"} 250000"));
  EXPECT_THAT(text, testing::HasSubstr("variant=\"fine\",device=\"cpu\"} 0"));
  ASSERT_TRUE(budget(admin_.key, 751000, &kept).ok());
  EXPECT_THAT(kept.resident_variants(), testing::ElementsAre("coarse", "middle", "fine"));
}

TEST_F(AuthTest, CapsAreEnforcedAndNamed) {
  limits_.max_prompt_tokens = 8;
  limits_.max_answer_tokens = 4;
  StartServer({.max_batch = 4, .max_waiting = 4});
  const Status longer = Generate(other_.key, 5);
  EXPECT_EQ(longer.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(DetailsOf(longer).field(), "stopping.max_new_tokens");
  EXPECT_TRUE(Generate(other_.key, 4).ok());
  grpc::ClientContext context;
  SetKey(context, other_.key);
  api::GenerateResponse response;
  const Status wide = stub_->Generate(&context, Request("nine bytes", 2), &response);
  EXPECT_EQ(DetailsOf(wide).field(), "text");
}

}  // namespace
}  // namespace lift::test
