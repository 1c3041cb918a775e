// Another model takes over while calls of the first run.
#include <gmock/gmock.h>

#include <atomic>
#include <thread>
#include <vector>

#include "tests/rpc/fixture.h"

namespace lift::test {
namespace {

using namespace std::chrono_literals;

class SwapTest : public RpcTest {
 protected:
  // A second engine under another name, told apart by its variants' first letters.
  void SetUp() override {
    RpcTest::SetUp();
    next_info_ = info_;
    next_info_.name = "next";
    for (VariantInfo& variant : next_info_.variants) variant.name = "n-" + variant.name;
    next_engine_ = std::make_unique<Engine>(next_model_, tokenizer_,
                                            EngineOptions{.max_batch = 16, .first_sequence = 1000});
    next_ = rpc::ServicesPtr(new rpc::ServiceContext{
        *next_engine_, tokenizer_, slot_->current()->chat_template, next_info_, *shared_});
  }
  void TearDown() override {
    StopServer(0ms);
    next_.reset();
    next_engine_.reset();
  }

  std::string ModelServing() {
    grpc::ClientContext context;
    api::ListModelsResponse models;
    EXPECT_TRUE(models_->ListModels(&context, {}, &models).ok());
    return models.models_size() == 1 ? models.models(0).name() : "";
  }
  int Health(const std::string& service) {
    grpc::ClientContext context;
    grpc::health::v1::HealthCheckRequest request;
    grpc::health::v1::HealthCheckResponse response;
    request.set_service(service);
    auto stub = grpc::health::v1::Health::NewStub(channel_);
    EXPECT_TRUE(stub->Check(&context, request, &response).ok()) << service;
    return response.status();
  }
  grpc::Status Swap(const std::string& file, api::SwapModelResponse* response,
                    const std::string& model = "") {
    grpc::ClientContext context;
    api::SwapModelRequest request;
    request.set_file(file);
    request.set_model(model);
    return models_->SwapModel(&context, request, response);
  }

  FakeModel next_model_;
  ModelInfo next_info_;
  std::unique_ptr<Engine> next_engine_;
  rpc::ServicesPtr next_;
};

TEST_F(SwapTest, RunningCallsEndWhereTheyBeganAndNewOnesGoToTheNewModel) {
  model_.step_micros = 2000;
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, StreamRequest("hello", 200, "fine"));
  api::GenerateStreamResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.started().served_by().variant(), "fine");
  const std::weak_ptr<const rpc::ServiceContext> old = slot_->current();
  ASSERT_TRUE(server_->Replace(next_));

  EXPECT_EQ(ModelServing(), "next");
  EXPECT_EQ(Health("fake/fine"), grpc::health::v1::HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(Health("next/n-fine"), grpc::health::v1::HealthCheckResponse::SERVING);
  grpc::ClientContext second;
  api::GenerateResponse answer;
  ASSERT_TRUE(stub_->Generate(&second, Request("hello", 20), &answer).ok());
  EXPECT_THAT(answer.served_by().variant(), testing::StartsWith("n-"));
  EXPECT_EQ(next_engine_->load().running, 0);
  EXPECT_EQ(engine_->load().running, 1);  // still at it
  EXPECT_FALSE(old.expired());

  std::string text;
  while (reader->Read(&response)) text += response.delta().text();
  ASSERT_TRUE(reader->Finish().ok());
  EXPECT_EQ(text, FakeModel::Expected(Ids("hello"), 2, 200));
  for (int i = 0; i < 500 && !old.expired(); ++i) std::this_thread::sleep_for(10ms);
  EXPECT_TRUE(old.expired());  // nothing holds the old model any more
}

TEST_F(SwapTest, ACallOfTheOldModelCanStillBeCancelled) {
  model_.step_micros = 2000;
  grpc::ClientContext context, cancel_context;
  auto request = StreamRequest("hello", 4000, "fine");
  request.set_request_id("victim");
  auto reader = stub_->GenerateStream(&context, request);
  api::GenerateStreamResponse response;
  ASSERT_TRUE(reader->Read(&response));
  ASSERT_TRUE(server_->Replace(next_));
  api::CancelGenerationRequest cancel;
  cancel.set_request_id("victim");
  api::CancelGenerationResponse cancelled;
  ASSERT_TRUE(stub_->CancelGeneration(&cancel_context, cancel, &cancelled).ok());
  EXPECT_TRUE(cancelled.cancelled());
  while (reader->Read(&response)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(SwapTest, ADrainWaitsForTheOldModelToo) {
  model_.step_micros = 2000;
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, StreamRequest("hello", 100, "fine"));
  api::GenerateStreamResponse response;
  ASSERT_TRUE(reader->Read(&response));
  ASSERT_TRUE(server_->Replace(next_));
  std::string text;
  std::thread client([&] {
    while (reader->Read(&response)) text += response.delta().text();
  });
  EXPECT_TRUE(server_->Stop(10s));
  client.join();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(text, FakeModel::Expected(Ids("hello"), 2, 100));
  EXPECT_FALSE(server_->Replace(next_));  // too late
}

TEST_F(SwapTest, TheCallAnswersWithTheNewModelOrWithWhyNot) {
  api::SwapModelResponse response;
  EXPECT_EQ(Swap("", &response).error_code(), grpc::StatusCode::UNIMPLEMENTED);
  shared_->swap_model = [&](const std::string& file, std::function<void(absl::Status)> done) {
    if (file != "good") return done(absl::FailedPreconditionError("cannot be read"));
    EXPECT_TRUE(server_->Replace(next_));
    done(absl::OkStatus());
  };
  const grpc::Status refused = Swap("bad", &response);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(ModelServing(), "fake");
  EXPECT_EQ(Swap("good", &response, "other").error_code(), grpc::StatusCode::NOT_FOUND);
  ASSERT_TRUE(Swap("good", &response, "fake").ok());
  EXPECT_EQ(response.model().name(), "next");
  EXPECT_EQ(ModelServing(), "next");
}

// Those who tell health of a variant that came or went, of a swap and of a stuck step are threads
// of their own: the last word must be the last.
TEST_F(SwapTest, HealthIsTheLastWordWhoeverSaysIt) {
  using Health = grpc::health::v1::HealthCheckResponse;
  std::atomic<bool> over{false};
  std::vector<std::thread> tellers;
  for (int i = 0; i < 2; ++i) {
    tellers.emplace_back([&] {
      while (!over) {
        shared_->residency_changed();
        std::this_thread::yield();
      }
    });
  }
  const rpc::ServicesPtr first = slot_->current();
  for (int i = 0; i < 100; ++i) {
    server_->SetServing(false);
    EXPECT_EQ(SwapTest::Health(""), Health::NOT_SERVING) << i;
    server_->SetServing(true);
    EXPECT_TRUE(server_->Replace(i % 2 == 0 ? next_ : first));
    EXPECT_EQ(SwapTest::Health("fake/fine"), i % 2 == 0 ? Health::NOT_SERVING : Health::SERVING)
        << i;
    EXPECT_EQ(SwapTest::Health("next/n-fine"), i % 2 == 0 ? Health::SERVING : Health::NOT_SERVING)
        << i;
  }
  over = true;
  for (std::thread& teller : tellers) teller.join();
}

// The step under way ends after the stop has begun, and what tells health of it is taken away
// meanwhile: a race that only ThreadSanitizer would see.
TEST_F(SwapTest, VariantsMayLeaveWhileTheServerStops) {
  model_.step_micros = 100'000;
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, StreamRequest("hello", 1000, "coarse"));
  api::GenerateStreamResponse response;
  ASSERT_TRUE(reader->Read(&response));
  std::vector<std::thread> callers;
  for (int i = 0; i < 8; ++i) {
    callers.emplace_back([&] {
      grpc::ClientContext call;
      api::UnloadVariantRequest request;
      api::UnloadVariantResponse unloaded;
      request.set_variant("fine");
      models_->UnloadVariant(&call, request, &unloaded);  // any answer will do
    });
  }
  std::this_thread::sleep_for(20ms);
  EXPECT_FALSE(server_->Stop(0ms));
  for (std::thread& caller : callers) caller.join();
  while (reader->Read(&response)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

}  // namespace
}  // namespace lift::test
