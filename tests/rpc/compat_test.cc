// The Open Inference Protocol and vLLM's protocol give the tokens liftserve.v1 gives.
#include <gmock/gmock.h>

#include <cstring>
#include <set>

#include "inference/grpc_predict_v2.grpc.pb.h"
#include "tests/rpc/fixture.h"
#include "vllm/grpc/vllm_engine.grpc.pb.h"

namespace lift::test {
namespace {

namespace engine = vllm::grpc::engine;

class CompatTest : public RpcTest {
 protected:
  void SetUp() override {
    RpcTest::SetUp();
    oip_ = inference::GRPCInferenceService::NewStub(channel_);
    vllm_ = engine::VllmEngine::NewStub(channel_);
  }

  static inference::ModelInferRequest Infer(const std::string& text, int tokens,
                                            const std::string& version) {
    inference::ModelInferRequest request;
    request.set_model_name("fake");
    request.set_model_version(version);
    auto& input = *request.add_inputs();
    input.set_name("text_input");
    input.set_datatype("BYTES");
    input.add_shape(1);
    input.mutable_contents()->add_bytes_contents(text);
    (*request.mutable_parameters())["max_tokens"].set_int64_param(tokens);
    return request;
  }
  static void AddStream(inference::ModelInferRequest& request) {
    auto& input = *request.add_inputs();
    input.set_name("stream");
    input.set_datatype("BOOL");
    input.add_shape(1);
    input.mutable_contents()->add_bool_contents(true);
  }
  grpc::Status Call(const inference::ModelInferRequest& request,
                    inference::ModelInferResponse& response) {
    grpc::ClientContext context;
    return oip_->ModelInfer(&context, request, &response);
  }
  engine::GenerateRequest Vllm(const std::string& text, int tokens, bool stream) {
    engine::GenerateRequest request;
    for (const int32_t id : Ids(text)) {
      request.mutable_tokenized()->add_input_ids(static_cast<uint32_t>(id));
    }
    request.mutable_sampling_params()->set_temperature(0);
    if (tokens > 0)
      request.mutable_sampling_params()->set_max_tokens(static_cast<uint32_t>(tokens));
    request.set_stream(stream);
    return request;
  }

  std::unique_ptr<inference::GRPCInferenceService::Stub> oip_;
  std::unique_ptr<engine::VllmEngine::Stub> vllm_;
};

TEST_F(CompatTest, OipAnswersAsContentsOrRaw) {
  const std::string expected = FakeModel::Expected(Ids("hello"), 0, 12);
  inference::ModelInferResponse response;
  auto request = Infer("hello", 12, "coarse");
  request.set_id("r1");
  ASSERT_TRUE(Call(request, response).ok());
  EXPECT_EQ(response.id(), "r1");
  EXPECT_EQ(response.model_version(), "coarse");
  EXPECT_EQ(response.outputs(0).contents().bytes_contents(0), expected);
  EXPECT_EQ(response.parameters().at("finish_reason").string_param(), "length");

  // Raw: a length and the bytes; token ids as well.
  const std::string text = "hello";
  const uint32_t size = 5;
  request.mutable_inputs(0)->clear_contents();
  request.add_raw_input_contents(std::string(reinterpret_cast<const char*>(&size), 4) + text);
  for (const char* name : {"token_ids", "text_output"}) request.add_outputs()->set_name(name);
  ASSERT_TRUE(Call(request, response).ok());
  ASSERT_EQ(response.raw_output_contents_size(), 2);
  EXPECT_EQ(response.raw_output_contents(0).substr(4), expected);
  std::vector<int32_t> ids(12);
  ASSERT_EQ(response.raw_output_contents(1).size(), 48u);
  std::memcpy(ids.data(), response.raw_output_contents(1).data(), 48);
  EXPECT_EQ(std::string(ids.begin(), ids.end()), expected);
}

TEST_F(CompatTest, OipMetadataAndReadiness) {
  grpc::ClientContext live, ready, model, missing, meta;
  inference::ServerLiveResponse is_live;
  ASSERT_TRUE(oip_->ServerLive(&live, {}, &is_live).ok());
  EXPECT_TRUE(is_live.live());
  inference::ServerReadyResponse is_ready;
  ASSERT_TRUE(oip_->ServerReady(&ready, {}, &is_ready).ok());
  EXPECT_TRUE(is_ready.ready());
  inference::ModelReadyRequest which;
  which.set_name("fake");
  which.set_version("middle");
  inference::ModelReadyResponse model_ready;
  ASSERT_TRUE(oip_->ModelReady(&model, which, &model_ready).ok());
  EXPECT_TRUE(model_ready.ready());
  which.set_version("nonesuch");
  EXPECT_EQ(oip_->ModelReady(&missing, which, &model_ready).error_code(),
            grpc::StatusCode::NOT_FOUND);
  inference::ModelMetadataResponse metadata;
  inference::ModelMetadataRequest name;
  name.set_name("fake");
  ASSERT_TRUE(oip_->ModelMetadata(&meta, name, &metadata).ok());
  EXPECT_THAT(metadata.versions(), testing::ElementsAre("coarse", "middle", "fine"));
}

TEST_F(CompatTest, OipErrorsNameWhatIsWrong) {
  using Edit = void (*)(inference::ModelInferRequest&);
  const std::vector<std::pair<Edit, std::string>> cases{
      {[](auto& r) { r.mutable_inputs(0)->set_name("x"); }, "inputs.x"},
      {[](auto& r) { r.mutable_inputs(0)->set_datatype("FP32"); }, "inputs.text_input"},
      {[](auto& r) { r.mutable_inputs(0)->clear_contents(); }, "inputs.text_input"},
      {[](auto& r) { r.add_raw_input_contents("\xff\xff\xff\xff"); }, "inputs.text_input"},
      {[](auto& r) { r.add_raw_input_contents("a"); }, "inputs.text_input"},
      {[](auto& r) { r.add_raw_input_contents(""), r.add_raw_input_contents(""); },
       "raw_input_contents"},
      {[](auto& r) { (*r.mutable_parameters())["tempo"].set_int64_param(1); }, "parameters.tempo"},
      {[](auto& r) { (*r.mutable_parameters())["top_k"].set_string_param("1"); },
       "parameters.top_k"},
      {[](auto& r) { (*r.mutable_parameters())["max_tokens"].set_double_param(1.5); },
       "parameters.max_tokens"},
      {[](auto& r) { r.add_outputs()->set_name("logits"); }, "outputs.logits"},
      {[](auto& r) { AddStream(r); }, "inputs.stream"},
      {[](auto& r) { r.clear_inputs(); }, "prompt"},
  };
  for (const auto& [edit, field] : cases) {
    auto request = Infer("hello", 2, "");
    edit(request);
    inference::ModelInferResponse response;
    const grpc::Status status = Call(request, response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << field;
    EXPECT_EQ(DetailsOf(status).field(), field) << status.error_message();
  }
}

TEST_F(CompatTest, OipStreamRunsManyAndOutlivesErrors) {
  grpc::ClientContext context;
  auto stream = oip_->ModelStreamInfer(&context);
  std::map<std::string, std::string> texts;
  std::set<std::string> finals, failed;
  for (int i = 0; i < 100; ++i) {  // more than run at once
    auto request = Infer("text " + std::to_string(i), 20, i % 2 == 0 ? "coarse" : "fine");
    request.set_id("s" + std::to_string(i));
    if (i % 10 == 3) (*request.mutable_parameters())["nonsense"].set_bool_param(true);
    AddStream(request);
    ASSERT_TRUE(stream->Write(request));
  }
  stream->WritesDone();
  inference::ModelStreamInferResponse response;
  while (stream->Read(&response)) {
    const auto& piece = response.infer_response();
    if (!response.error_message().empty()) {
      EXPECT_THAT(response.error_message(), testing::HasSubstr("nonsense"));
      failed.insert(piece.id());
      continue;
    }
    texts[piece.id()] += piece.outputs(0).contents().bytes_contents(0);
    if (piece.parameters().at("triton_final_response").bool_param()) finals.insert(piece.id());
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(failed.size(), 10u);
  EXPECT_EQ(finals.size(), 90u);
  for (const auto& [id, text] : texts) {
    const int i = std::stoi(id.substr(1));
    EXPECT_EQ(text, FakeModel::Expected(Ids("text " + std::to_string(i)), i % 2 == 0 ? 0 : 2, 20));
  }
  EXPECT_TRUE(AllSlotsFree());
}

TEST_F(CompatTest, OipStreamThatVanishesFreesItsSlots) {
  model_.step_micros = 2000;
  grpc::ClientContext context;
  auto stream = oip_->ModelStreamInfer(&context);
  for (int i = 0; i < 5; ++i) {
    auto request = Infer("x", 4000, "fine");
    AddStream(request);
    ASSERT_TRUE(stream->Write(request));
  }
  inference::ModelStreamInferResponse response;
  ASSERT_TRUE(stream->Read(&response));
  context.TryCancel();
  while (stream->Read(&response)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(AllSlotsFree());
}

TEST_F(CompatTest, VllmStreamsTokenIdsThenCompletes) {
  for (const bool streaming : {true, false}) {
    grpc::ClientContext context;
    auto request = Vllm("hello", 30, streaming);
    request.mutable_sampling_params()->set_logprobs(2);
    auto reader = vllm_->Generate(&context, request);
    engine::GenerateResponse response;
    std::string pieces;
    int chunks = 0, completes = 0;
    while (reader->Read(&response)) {
      if (response.has_chunk()) {
        ++chunks;
        for (const uint32_t id : response.chunk().token_ids()) pieces += static_cast<char>(id);
        EXPECT_EQ(response.chunk().completion_tokens(), pieces.size());
        continue;
      }
      ++completes;
      const auto& ids = response.complete().output_ids();
      EXPECT_EQ(ids.size(), 30);
      if (streaming) {
        EXPECT_EQ(std::string(ids.begin(), ids.end()), pieces);
      }
      EXPECT_EQ(response.complete().finish_reason(), "length");
      EXPECT_EQ(response.complete().output_logprobs().token_logprobs_size(), 30);
    }
    EXPECT_TRUE(reader->Finish().ok());
    EXPECT_EQ(completes, 1);
    EXPECT_EQ(chunks > 0, streaming);
  }
}

TEST_F(CompatTest, VllmSeveralAnswersEachComplete) {
  for (const bool streaming : {true, false}) {
    grpc::ClientContext context;
    auto request = Vllm("hello", 12, streaming);
    request.mutable_sampling_params()->set_n(3);
    request.mutable_sampling_params()->set_logprobs(0);
    request.mutable_sampling_params()->set_regex("[a-z]{5}|[0-9]{7}");
    request.mutable_sampling_params()->set_temperature(50);
    request.mutable_sampling_params()->set_seed(3);
    auto reader = vllm_->Generate(&context, request);
    std::map<uint32_t, std::string> pieces, answers;
    engine::GenerateResponse response;
    while (reader->Read(&response)) {
      if (response.has_chunk()) {
        for (const uint32_t id : response.chunk().token_ids()) {
          pieces[response.chunk().index()] += static_cast<char>(id);
        }
        continue;
      }
      const auto& ids = response.complete().output_ids();
      answers[response.complete().index()] = std::string(ids.begin(), ids.end());
      EXPECT_EQ(response.complete().finish_reason(), "stop");
      EXPECT_EQ(response.complete().output_logprobs().token_logprobs_size(), ids.size());
    }
    EXPECT_TRUE(reader->Finish().ok());
    EXPECT_EQ(answers.size(), 3u);
    for (const auto& [index, text] : answers) {
      EXPECT_THAT(text, testing::MatchesRegex("[a-z]*|[0-9]*"));
      EXPECT_THAT(text.size(), testing::AnyOf(5u, 7u));
    }
    if (streaming) {
      EXPECT_EQ(pieces, answers);
    }
  }
}

TEST_F(CompatTest, OipConstraints) {
  const auto ask = [&](const std::string& parameters) {
    auto request = Infer("hello", 30, "coarse");
    auto& input = *request.add_inputs();
    input.set_name("sampling_parameters");
    input.set_datatype("BYTES");
    input.add_shape(1);
    input.mutable_contents()->add_bytes_contents(parameters);
    inference::ModelInferResponse response;
    const grpc::Status status = Call(request, response);
    return status.ok() ? response.outputs(0).contents().bytes_contents(0)
                       : DetailsOf(status).field();
  };
  EXPECT_THAT(ask(R"({"regex":"x[0-9]"})"), testing::MatchesRegex("x[0-9]"));
  EXPECT_THAT(ask(R"({"choices":["yes","no"]})"), testing::AnyOf("yes", "no"));
  EXPECT_EQ(
      ask(R"({"json_schema":{"properties":{"b":{"const":1},"a":{"const":2}},"required":["b","a"]},
                    "temperature":0})")
          .substr(0, 5),
      R"({"b":)");
  EXPECT_EQ(ask(R"({"grammar":"root ::= \"a\" b\nb ::= \"c\""})"), "ac");
  EXPECT_EQ(ask(R"({"json_object":true})").substr(0, 1), "{");
  EXPECT_EQ(ask(R"({"regex":"("})"), "constraint.regex");
  EXPECT_EQ(ask(R"({"choices":[1]})"), "parameters.choices");
}

TEST_F(CompatTest, VllmAbortInfoAndRefusals) {
  model_.step_micros = 2000;
  grpc::ClientContext context, abort, info, state, health;
  auto request = Vllm("hello", 0, true);  // without max_tokens: what the context leaves
  request.set_request_id("victim");
  auto reader = vllm_->Generate(&context, request);
  engine::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  engine::AbortRequest who;
  who.add_request_ids("victim");
  engine::AbortResponse none;
  ASSERT_TRUE(vllm_->Abort(&abort, who, &none).ok());
  std::string reason;
  while (reader->Read(&response)) reason = response.complete().finish_reason();
  EXPECT_EQ(reason, "abort");
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);

  engine::GetModelInfoResponse model;
  ASSERT_TRUE(vllm_->GetModelInfo(&info, {}, &model).ok());
  EXPECT_EQ(model.vocab_size(), static_cast<uint32_t>(kVocab));
  engine::GetServerInfoResponse server;
  ASSERT_TRUE(vllm_->GetServerInfo(&state, {}, &server).ok());
  EXPECT_EQ(server.server_type(), "liftserve");
  engine::HealthCheckResponse healthy;
  ASSERT_TRUE(vllm_->HealthCheck(&health, {}, &healthy).ok());
  EXPECT_TRUE(healthy.healthy());

  const auto refused = [&](auto edit) {
    grpc::ClientContext own;
    auto wrong = Vllm("hello", 2, true);
    edit(*wrong.mutable_sampling_params());
    const grpc::Status status = vllm_->Generate(&own, wrong)->Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    return DetailsOf(status).field();
  };
  EXPECT_EQ(refused([](auto& p) { p.set_n(99); }), "sampling.n");
  EXPECT_EQ(refused([](auto& p) { p.set_regex("(a"); }), "constraint.regex");
  EXPECT_EQ(refused([](auto& p) { p.set_json_schema("{\"not\":{}}"); }), "constraint.json_schema");
  EXPECT_EQ(refused([](auto& p) { p.set_grammar("x"); }), "constraint.grammar");
  EXPECT_EQ(refused([](auto& p) { p.mutable_choice(); }), "constraint.choices");
  EXPECT_EQ(refused([](auto& p) { p.set_prompt_logprobs(1); }), "sampling_params.prompt_logprobs");
  EXPECT_EQ(refused([](auto& p) { p.set_structural_tag("x"); }), "sampling_params.structural_tag");
  EXPECT_EQ(refused([](auto& p) { p.set_logprobs(-1); }), "output.top_logprobs");
  EXPECT_EQ(refused([](auto& p) { p.set_top_p(2); }), "sampling.top_p");
}

}  // namespace
}  // namespace lift::test
