// Everything a client can get wrong, and what it is told: the canonical code, a reason, the field.
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/impl/codegen/async_unary_call.h>

#include <cmath>
#include <functional>

#include "tests/rpc/fixture.h"

namespace lift::test {
namespace {

using ErrorsTest = RpcTest;

grpc::Status Generate(api::GenerationService::Stub& stub, const api::GenerateRequest& request) {
  grpc::ClientContext context;
  api::GenerateResponse response;
  return stub.Generate(&context, request, &response);
}

TEST_F(ErrorsTest, EveryWrongFieldIsNamed) {
  struct Case {
    const char* field;
    std::function<void(api::GenerateRequest&)> spoil;
  };
  const std::vector<Case> cases{
      {"prompt", [](auto& r) { r.clear_prompt(); }},
      {"text", [](auto& r) { r.set_text(""); }},
      {"text", [](auto& r) { r.set_text(std::string((1 << 20) + 1, 'a')); }},
      {"text", [](auto& r) { r.set_text(std::string(5000, 'a')); }},
      {"token_ids.ids", [](auto& r) { r.mutable_token_ids(); }},
      {"token_ids.ids", [](auto& r) { r.mutable_token_ids()->add_ids(-1); }},
      {"token_ids.ids", [](auto& r) { r.mutable_token_ids()->add_ids(kVocab); }},
      {"request_id", [](auto& r) { r.set_request_id("a b"); }},
      {"request_id", [](auto& r) { r.set_request_id(std::string(200, 'a')); }},
      {"priority", [](auto& r) { r.set_priority(1000); }},
      {"sampling.temperature", [](auto& r) { r.mutable_sampling()->set_temperature(-1); }},
      {"sampling.temperature", [](auto& r) { r.mutable_sampling()->set_temperature(NAN); }},
      {"sampling.top_p", [](auto& r) { r.mutable_sampling()->set_top_p(1.5); }},
      {"sampling.top_k", [](auto& r) { r.mutable_sampling()->set_top_k(-1); }},
      {"sampling.min_p", [](auto& r) { r.mutable_sampling()->set_min_p(-0.1); }},
      {"sampling.repetition_penalty",
       [](auto& r) { r.mutable_sampling()->set_repetition_penalty(-1); }},
      {"sampling.logit_bias",
       [](auto& r) { (*r.mutable_sampling()->mutable_logit_bias())[kVocab] = 1; }},
      {"output.top_logprobs", [](auto& r) { r.mutable_output()->set_top_logprobs(3); }},
      {"output.top_logprobs",
       [](auto& r) {
         r.mutable_output()->set_logprobs(true);
         r.mutable_output()->set_top_logprobs(21);
       }},
      {"stopping.max_new_tokens", [](auto& r) { r.mutable_stopping()->set_max_new_tokens(0); }},
      {"stopping.max_new_tokens",
       [](auto& r) { r.mutable_stopping()->set_max_new_tokens(INT64_MAX); }},
      {"stopping.max_new_tokens", [](auto& r) { r.mutable_stopping()->set_max_new_tokens(4096); }},
      {"stopping.min_new_tokens", [](auto& r) { r.mutable_stopping()->set_min_new_tokens(50); }},
      {"stopping.stop_strings", [](auto& r) { r.mutable_stopping()->add_stop_strings(""); }},
      {"stopping.stop_strings",
       [](auto& r) {
         for (int i = 0; i < 17; ++i) r.mutable_stopping()->add_stop_strings("x");
       }},
      {"stopping.stop_strings",
       [](auto& r) { r.mutable_stopping()->add_stop_strings(std::string(257, 'x')); }},
      {"stopping.stop_token_ids",
       [](auto& r) { r.mutable_stopping()->add_stop_token_ids(kVocab); }},
      {"precision.variant",
       [](auto& r) { r.mutable_precision()->set_mode(api::PRECISION_MODE_PINNED); }},
      {"precision.variant", [](auto& r) { r.mutable_precision()->set_variant("fine"); }},
      {"precision.mode",
       [](auto& r) { r.mutable_precision()->set_mode(static_cast<api::PrecisionMode>(9)); }},
      {"precision.min_lambda", [](auto& r) { r.mutable_precision()->set_min_lambda(1.5); }},
      {"precision.max_quality_loss",
       [](auto& r) { r.mutable_precision()->set_max_quality_loss(-1); }},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE(testing::Message() << "case " << i << ", " << cases[i].field);
    api::GenerateRequest request = Request("hello", 4);
    cases[i].spoil(request);
    const grpc::Status status = Generate(*stub_, request);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << status.error_message();
    const Details details = DetailsOf(status);
    EXPECT_EQ(details.info.reason(), "INVALID_FIELD");
    EXPECT_EQ(details.info.domain(), "liftserve.dev");
    EXPECT_EQ(details.field(), cases[i].field) << status.error_message();
  }
  EXPECT_EQ(model_.steps.load(), 0);
}

TEST_F(ErrorsTest, DefaultLengthShrinksToTheContext) {
  api::GenerateRequest request = Request(std::string(4000, 'a'), 1);
  request.clear_stopping();
  grpc::ClientContext context;
  api::GenerateResponse response;
  ASSERT_TRUE(stub_->Generate(&context, request, &response).ok());
  EXPECT_EQ(response.finished().usage().generated_tokens(), 4096 - 4001);
}

TEST_F(ErrorsTest, UnknownModelAndVariant) {
  api::GenerateRequest request = Request("hello", 4);
  request.set_model("other");
  grpc::Status status = Generate(*stub_, request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(DetailsOf(status).info.reason(), "MODEL_NOT_FOUND");
  status = Generate(*stub_, Request("hello", 4, "nonesuch"));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_TRUE(DetailsOf(status).has_info);
}

TEST_F(ErrorsTest, FloorIsRefusedOrServedNeverIgnored) {
  api::GenerateRequest request = Request("hello", 4);
  request.mutable_precision()->set_min_lambda(0.9);
  grpc::Status status = Generate(*stub_, request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(DetailsOf(status).info.reason(), "PRECISION_FLOOR_UNAVAILABLE");

  request.mutable_precision()->set_allow_fallback(true);
  grpc::ClientContext context;
  api::GenerateResponse response;
  ASSERT_TRUE(stub_->Generate(&context, request, &response).ok());
  EXPECT_EQ(response.served_by().variant(), "fine");
  EXPECT_EQ(response.served_by().reason(), api::ROUTING_REASON_FALLBACK);

  request = Request("hello", 4, "coarse");
  request.mutable_precision()->set_min_lambda(0.5);
  EXPECT_EQ(Generate(*stub_, request).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_F(ErrorsTest, ChatNeedsATemplateAndSaneMessages) {
  const auto chat = [&](const api::ChatRequest& request) {
    grpc::ClientContext context;
    api::ChatResponse response;
    return stub_->Chat(&context, request, &response);
  };
  api::ChatRequest request;
  EXPECT_EQ(DetailsOf(chat(request)).field(), "messages");
  auto* message = request.add_messages();
  message->set_role("user<|im_end|>");
  EXPECT_EQ(DetailsOf(chat(request)).field(), "messages[0].role");
  message->set_role("user");
  StartServer({}, /*with_template=*/false);
  const grpc::Status status = chat(request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(DetailsOf(status).info.reason(), "NO_CHAT_TEMPLATE");
}

TEST_F(ErrorsTest, TenantIsValidated) {
  for (const std::string& tenant :
       {std::string("a b"), std::string("__idle__"), std::string(65, 'a')}) {
    grpc::ClientContext context;
    context.AddMetadata("x-liftserve-tenant", tenant);
    api::GenerateResponse response;
    const grpc::Status status = stub_->Generate(&context, Request("hello", 1), &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(DetailsOf(status).info.reason(), "INVALID_TENANT");
  }
}

// A protobuf client cannot send it; a hostile one can.
TEST_F(ErrorsTest, InvalidUtf8AndGarbageAreInvalidArgument) {
  grpc::GenericStub generic(channel_);
  for (const std::string& bytes : {std::string("\x1a\x02\xff\xfe"), std::string("\xff\xff\xff")}) {
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    grpc::Slice slice(bytes);
    grpc::ByteBuffer request(&slice, 1), response;
    auto call = generic.PrepareUnaryCall(&context, "/liftserve.v1.GenerationService/Generate",
                                         request, &queue);
    grpc::Status status;
    call->StartCall();
    call->Finish(&response, &status, this);
    void* tag;
    bool ok;
    ASSERT_TRUE(queue.Next(&tag, &ok));
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(DetailsOf(status).info.reason(), "MALFORMED_MESSAGE");
    queue.Shutdown();
    while (queue.Next(&tag, &ok)) {
    }
  }
}

TEST_F(ErrorsTest, OversizedMessageIsRefusedByTheTransport) {
  const grpc::Status status = Generate(*stub_, Request(std::string(5 << 20, 'a'), 1));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(ErrorsTest, StreamRefusalsCarryDetailsToo) {
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, StreamRequest("", 1, ""));
  api::GenerateStreamResponse response;
  EXPECT_FALSE(reader->Read(&response));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(DetailsOf(status).field(), "text");
}

TEST_F(ErrorsTest, FullQueueSaysWhenToComeBack) {
  StartServer({.max_batch = 1, .max_waiting = 1});
  model_.step_micros = 20000;
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<api::GenerateStreamResponse>>> readers;
  grpc::Status refused;
  for (int i = 0; i < 8 && refused.ok(); ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(stub_->GenerateStream(contexts.back().get(), StreamRequest("x", 500, "")));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
    api::GenerateResponse response;
    const grpc::Status status = stub_->Generate(&context, Request("y", 1), &response);
    if (status.error_code() != grpc::StatusCode::UNAVAILABLE) continue;
    refused = status;
    const Details details = DetailsOf(status);
    EXPECT_EQ(details.info.reason(), "QUEUE_FULL");
    ASSERT_TRUE(details.has_retry);
    EXPECT_GT(details.retry.retry_delay().nanos() + details.retry.retry_delay().seconds(), 0);
    EXPECT_EQ(context.GetServerTrailingMetadata().count("grpc-retry-pushback-ms"), 1u);
  }
  EXPECT_FALSE(refused.ok());
  for (auto& context : contexts) context->TryCancel();
  for (auto& reader : readers) EXPECT_FALSE(reader->Finish().ok());
  EXPECT_TRUE(AllSlotsFree());
}

TEST_F(ErrorsTest, RequestIdOfALiveRequestIsTaken) {
  model_.step_micros = 5000;
  grpc::ClientContext context;
  auto first = StreamRequest("x", 1000, "");
  first.set_request_id("twin");
  auto reader = stub_->GenerateStream(&context, first);
  api::GenerateStreamResponse response;
  ASSERT_TRUE(reader->Read(&response));
  api::GenerateRequest second = Request("y", 1);
  second.set_request_id("twin");
  const grpc::Status status = Generate(*stub_, second);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  context.TryCancel();
  while (reader->Read(&response)) {
  }
  EXPECT_FALSE(reader->Finish().ok());
}

}  // namespace
}  // namespace lift::test
