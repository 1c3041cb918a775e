// How calls end when something happens to them: cancellation, deadlines, slow and vanished readers,
// drains.
#include <future>
#include <thread>

#include "tests/rpc/fixture.h"

namespace lift::test {
namespace {

using namespace std::chrono_literals;
using LifecycleTest = RpcTest;
using Reader = std::unique_ptr<grpc::ClientReader<api::GenerateStreamResponse>>;

grpc::Status Drain(Reader& reader, api::Finished* finished = nullptr) {
  api::GenerateStreamResponse response;
  while (reader->Read(&response)) {
    if (response.has_finished() && finished != nullptr) *finished = response.finished();
  }
  return reader->Finish();
}

TEST_F(LifecycleTest, CancelGenerationEndsAStream) {
  model_.step_micros = 2000;
  grpc::ClientContext context, cancel_context, again_context;
  auto request = StreamRequest("hello", 4000, "fine");
  request.set_request_id("victim");
  auto reader = stub_->GenerateStream(&context, request);
  api::GenerateStreamResponse response;
  ASSERT_TRUE(reader->Read(&response));
  api::CancelGenerationRequest cancel;
  cancel.set_request_id("victim");
  api::CancelGenerationResponse answer;
  ASSERT_TRUE(stub_->CancelGeneration(&cancel_context, cancel, &answer).ok());
  EXPECT_TRUE(answer.cancelled());
  api::Finished finished;
  const grpc::Status status = Drain(reader, &finished);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
  const Details details = DetailsOf(status);
  EXPECT_EQ(details.info.reason(), "REQUEST_CANCELLED");
  EXPECT_EQ(details.info.metadata().at("request_id"), "victim");
  EXPECT_EQ(finished.reason(), api::FINISH_REASON_CANCELLED);
  EXPECT_GT(finished.usage().generated_tokens(), 0);
  ASSERT_TRUE(stub_->CancelGeneration(&again_context, cancel, &answer).ok());
  EXPECT_FALSE(answer.cancelled());
  EXPECT_TRUE(AllSlotsFree());
}

TEST_F(LifecycleTest, ClientCancellationFreesTheSlot) {
  model_.step_micros = 2000;
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, StreamRequest("hello", 4000, "fine"));
  api::GenerateStreamResponse response;
  ASSERT_TRUE(reader->Read(&response));
  context.TryCancel();
  EXPECT_EQ(Drain(reader).error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(AllSlotsFree());
  EXPECT_LT(model_.steps.load(), 2000);
}

TEST_F(LifecycleTest, UnaryCancellationFreesTheSlot) {
  model_.step_micros = 2000;
  grpc::ClientContext context;
  auto call = std::async(std::launch::async, [&] {
    api::GenerateResponse response;
    return stub_->Generate(&context, Request("hello", 4000), &response);
  });
  while (engine_->load().running == 0) std::this_thread::sleep_for(1ms);
  context.TryCancel();
  EXPECT_EQ(call.get().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(AllSlotsFree());
}

TEST_F(LifecycleTest, DeadlineEndsTheCallAndFreesTheSlot) {
  model_.step_micros = 2000;
  grpc::ClientContext unary, streaming;
  unary.set_deadline(std::chrono::system_clock::now() + 100ms);
  api::GenerateResponse response;
  EXPECT_EQ(stub_->Generate(&unary, Request("hello", 4000), &response).error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  streaming.set_deadline(std::chrono::system_clock::now() + 100ms);
  auto reader = stub_->GenerateStream(&streaming, StreamRequest("hello", 4000, "fine"));
  EXPECT_EQ(Drain(reader).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(AllSlotsFree());
}

TEST_F(LifecycleTest, DisconnectFreesTheSlot) {
  model_.step_micros = 2000;
  {
    grpc::ChannelArguments own;  // not shared with the fixture's connection
    own.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    auto channel =
        grpc::CreateCustomChannel(server_->address(), grpc::InsecureChannelCredentials(), own);
    auto stub = api::GenerationService::NewStub(channel);
    grpc::ClientContext context;
    auto reader = stub->GenerateStream(&context, StreamRequest("hello", 4000, "fine"));
    api::GenerateStreamResponse response;
    ASSERT_TRUE(reader->Read(&response));
  }  // reader, context and channel go away without a word
  EXPECT_TRUE(AllSlotsFree());
}

// A reader that does not read: the engine finishes at full speed, the answer waits in one merged
// delta.
TEST_F(LifecycleTest, SlowReaderDelaysNobodyAndLosesNothing) {
  constexpr int kTokens = 4000;
  grpc::ClientContext slow_context;
  auto slow = stub_->GenerateStream(&slow_context, StreamRequest("slow", kTokens, "coarse"));
  api::GenerateStreamResponse response;
  ASSERT_TRUE(slow->Read(&response));
  grpc::ClientContext fast_context;
  api::GenerateResponse fast;
  ASSERT_TRUE(stub_->Generate(&fast_context, Request("fast", 100, "fine"), &fast).ok());
  EXPECT_EQ(fast.text(), FakeModel::Expected(Ids("fast"), 2, 100));
  EXPECT_TRUE(AllSlotsFree());  // the slow one's slot too, although it has read nothing yet
  std::this_thread::sleep_for(50ms);
  std::string text;
  int deltas = 0;
  while (slow->Read(&response)) {
    text += response.delta().text();
    deltas += response.has_delta();
  }
  EXPECT_TRUE(slow->Finish().ok());
  EXPECT_EQ(text, FakeModel::Expected(Ids("slow"), 0, kTokens));
  EXPECT_GT(deltas, 0);
}

// The bar of the path: eight at once, one cancelled, one past its deadline, one slow; the others
// finish, all slots free.
TEST_F(LifecycleTest, EightStreamsWithTrouble) {
  model_.step_micros = 1000;
  const std::vector<std::string> names{"coarse", "middle", "fine"};
  struct Stream {
    grpc::ClientContext context;
    Reader reader;
    std::string text;
    grpc::Status status;
  };
  std::vector<Stream> streams(8);
  std::vector<std::thread> readers;
  for (int i = 0; i < 8; ++i) {
    auto request = StreamRequest("stream " + std::to_string(i), i < 2 ? 4000 : 100, names[i % 3]);
    request.set_request_id("s" + std::to_string(i));
    if (i == 1) streams[i].context.set_deadline(std::chrono::system_clock::now() + 150ms);
    streams[i].reader = stub_->GenerateStream(&streams[i].context, request);
    readers.emplace_back([&stream = streams[i], i] {
      api::GenerateStreamResponse response;
      while (stream.reader->Read(&response)) {
        stream.text += response.delta().text();
        if (i == 2) std::this_thread::sleep_for(5ms);
      }
      stream.status = stream.reader->Finish();
    });
  }
  std::this_thread::sleep_for(50ms);
  grpc::ClientContext cancel_context;
  api::CancelGenerationRequest cancel;
  cancel.set_request_id("s0");
  api::CancelGenerationResponse answer;
  ASSERT_TRUE(stub_->CancelGeneration(&cancel_context, cancel, &answer).ok());
  EXPECT_TRUE(answer.cancelled());
  for (auto& reader : readers) reader.join();
  EXPECT_EQ(streams[0].status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(streams[1].status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  for (int i = 2; i < 8; ++i) {
    EXPECT_TRUE(streams[i].status.ok()) << i << ": " << streams[i].status.error_message();
    EXPECT_EQ(streams[i].text, FakeModel::Expected(Ids("stream " + std::to_string(i)), i % 3, 100));
  }
  EXPECT_TRUE(AllSlotsFree());
}

TEST_F(LifecycleTest, DrainFinishesLiveStreamsAndRefusesNewOnes) {
  model_.step_micros = 2000;
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, StreamRequest("hello", 100, "fine"));
  api::GenerateStreamResponse response;
  ASSERT_TRUE(reader->Read(&response));
  auto stopped = std::async(std::launch::async, [&] { return server_->Stop(10s); });
  while (!engine_->load().draining) std::this_thread::sleep_for(1ms);
  grpc::ClientContext late_context;
  api::GenerateResponse late;
  const grpc::Status refused = stub_->Generate(&late_context, Request("late", 1), &late);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(DetailsOf(refused).info.reason(), "DRAINING");
  EXPECT_TRUE(Drain(reader).ok());
  EXPECT_TRUE(stopped.get());
}

TEST_F(LifecycleTest, DrainThatRunsOutOfGraceSaysDraining) {
  model_.step_micros = 5000;
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, StreamRequest("hello", 4000, "fine"));
  api::GenerateStreamResponse response;
  ASSERT_TRUE(reader->Read(&response));
  auto stopped = std::async(std::launch::async, [&] { return server_->Stop(50ms); });
  api::Finished finished;
  const grpc::Status status = Drain(reader, &finished);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(DetailsOf(status).info.reason(), "DRAINING");
  EXPECT_EQ(finished.reason(), api::FINISH_REASON_DRAINED);
  EXPECT_FALSE(stopped.get());
}

TEST_F(LifecycleTest, HealthFollowsTheServer) {
  namespace health = grpc::health::v1;
  auto stub = health::Health::NewStub(channel_);
  const auto check = [&](const std::string& service) {
    grpc::ClientContext context;
    health::HealthCheckRequest request;
    request.set_service(service);
    health::HealthCheckResponse response;
    const grpc::Status status = stub->Check(&context, request, &response);
    return status.ok() ? static_cast<int>(response.status()) : -status.error_code();
  };
  for (const char* service : {"", "liftserve.v1.GenerationService", "fake/middle"}) {
    EXPECT_EQ(check(service), health::HealthCheckResponse::SERVING) << service;
  }
  EXPECT_EQ(check("fake/nonesuch"), -grpc::StatusCode::NOT_FOUND);

  grpc::ClientContext context;
  health::HealthCheckRequest request;
  request.set_service("fake/middle");
  auto watch = stub->Watch(&context, request);
  health::HealthCheckResponse response;
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), health::HealthCheckResponse::SERVING);
  server_->SetServing(false);
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), health::HealthCheckResponse::NOT_SERVING);
  context.TryCancel();
  watch->Finish();
}

TEST_F(LifecycleTest, TakenPortIsAnErrorNotACrash) {
  const auto second = rpc::RpcServer::Start(*slot_, {.listen = server_->address()});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace lift::test
