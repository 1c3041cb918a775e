// Constraints in all four generation calls, and every way to get one wrong.
#include <gmock/gmock.h>

#include "tests/rpc/fixture.h"

namespace lift::test {
namespace {

using ConstraintRpcTest = RpcTest;

void SetRegex(api::Constraint& constraint, const std::string& pattern) {
  constraint.set_regex(pattern);
}

TEST_F(ConstraintRpcTest, AllFourCalls) {
  const std::string pattern = "[a-f]{4}é?!";
  const auto right = testing::MatchesRegex("[a-f][a-f][a-f][a-f](\xC3\xA9)?!");
  {
    api::GenerateRequest request = Request("hello", 30);
    SetRegex(*request.mutable_constraint(), pattern);
    grpc::ClientContext context;
    api::GenerateResponse response;
    ASSERT_TRUE(stub_->Generate(&context, request, &response).ok());
    EXPECT_THAT(response.text(), right);
    EXPECT_EQ(response.finished().reason(), api::FINISH_REASON_STOP);
    EXPECT_EQ(response.finished().matched_stop(), "");
  }
  {
    api::GenerateStreamRequest request = StreamRequest("hello", 30, "middle");
    SetRegex(*request.mutable_constraint(), pattern);
    grpc::ClientContext context;
    auto reader = stub_->GenerateStream(&context, request);
    std::string text;
    for (api::GenerateStreamResponse event; reader->Read(&event);) text += event.delta().text();
    ASSERT_TRUE(reader->Finish().ok());
    EXPECT_THAT(text, right);
  }
  api::ChatRequest chat;
  auto& message = *chat.add_messages();
  message.set_role("user");
  message.set_content("hi");
  chat.mutable_stopping()->set_max_new_tokens(40);
  chat.mutable_constraint()->mutable_choices()->add_texts("perhaps");
  {
    grpc::ClientContext context;
    api::ChatResponse response;
    ASSERT_TRUE(stub_->Chat(&context, chat, &response).ok());
    EXPECT_EQ(response.message().content(), "perhaps");
  }
  {
    api::ChatStreamRequest request;
    *request.mutable_messages() = chat.messages();
    *request.mutable_stopping() = chat.stopping();
    *request.mutable_constraint() = chat.constraint();
    grpc::ClientContext context;
    auto reader = stub_->ChatStream(&context, request);
    std::string text;
    for (api::ChatStreamResponse event; reader->Read(&event);) text += event.delta().text();
    ASSERT_TRUE(reader->Finish().ok());
    EXPECT_EQ(text, "perhaps");
  }
}

TEST_F(ConstraintRpcTest, WrongOnesNameFieldAndReason) {
  struct Wrong {
    std::function<void(api::Constraint&)> set;
    const char *field, *reason;
  };
  const Wrong wrongs[] = {
      {[](auto& c) { c.set_regex("(a"); }, "constraint.regex", "INVALID_FIELD"},
      {[](auto& c) { c.set_regex(std::string(70000, 'a')); }, "constraint.regex",
       "CONSTRAINT_TOO_LARGE"},
      {[](auto& c) { c.set_regex("(a|b)*a(a|b){25}"); }, "constraint.regex",
       "CONSTRAINT_TOO_LARGE"},
      {[](auto& c) { c.set_regex("[^\\s\\S]"); }, "constraint.regex", "CONSTRAINT_UNSATISFIABLE"},
      {[](auto& c) { c.set_json_schema("{\"contains\":{}}"); }, "constraint.json_schema",
       "INVALID_FIELD"},
      {[](auto& c) { c.set_grammar("root ::= x"); }, "constraint.grammar", "INVALID_FIELD"},
      {[](auto& c) { c.mutable_choices(); }, "constraint.choices", "INVALID_FIELD"}};
  for (const Wrong& wrong : wrongs) {
    for (const bool streamed : {false, true}) {
      grpc::ClientContext context;
      grpc::Status status;
      if (streamed) {
        api::GenerateStreamRequest request = StreamRequest("hello", 10, "middle");
        wrong.set(*request.mutable_constraint());
        auto reader = stub_->GenerateStream(&context, request);
        // One that turns out wrong when it is compiled still says what it used: nothing.
        for (api::GenerateStreamResponse event; reader->Read(&event);) {
          EXPECT_TRUE(event.has_finished());
          EXPECT_EQ(event.finished().usage().generated_tokens(), 0);
        }
        status = reader->Finish();
      } else {
        api::GenerateRequest request = Request("hello", 10);
        wrong.set(*request.mutable_constraint());
        api::GenerateResponse response;
        status = stub_->Generate(&context, request, &response);
      }
      EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
      EXPECT_EQ(DetailsOf(status).field(), wrong.field);
      EXPECT_EQ(DetailsOf(status).info.reason(), wrong.reason) << status.error_message();
    }
  }
  EXPECT_TRUE(AllSlotsFree());
}

}  // namespace
}  // namespace lift::test
