// Any bytes as the message of a call, through parsing, translation and every check before the
// engine. The first byte says which call.
#include "inference/grpc_predict_v2.pb.h"
#include "kernels/base/check.h"
#include "liftserve/v1/generation.pb.h"
#include "server/rpc/admit.h"
#include "server/rpc/compat/oip_tensors.h"
#include "server/rpc/compat/vllm_service.h"
#include "server/rpc/explain.h"
#include "server/rpc/translate.h"
#include "server/rpc/wire.h"
#include "server/security/key_ring.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/rpc/fake_model.h"

namespace {

using namespace lift;

struct Fixture {
  test::FakeModel model;
  std::shared_ptr<const Tokenizer> tokenizer = *Tokenizer::Create(test::ByteTokenizerSpec());
  Engine engine{model, tokenizer, {}};
  ModelInfo info = test::InfoOf(model, "fake");
  BuildInfo build;
  UsageTotals usage;
  rpc::SharedServices shared{build, usage};
  rpc::ServiceContext services{engine, tokenizer, *ChatTemplate::Compile(test::kChatMl), info,
                               shared};
};

// What is let in must be what the engine lets in: ids in the vocabulary, an answer that fits.
void CheckAdmitted(const Fixture& fixture, const absl::StatusOr<rpc::Admitted>& admitted) {
  if (!admitted.ok()) return;
  const EngineRequest& request = admitted->request;
  LIFT_CHECK(!request.prompt.empty() && !request.request_id.empty());
  for (const int32_t id : request.prompt) LIFT_CHECK(id >= 0 && id < fixture.info.vocab_size);
  LIFT_CHECK(static_cast<int64_t>(request.prompt.size()) + request.stopping.max_new_tokens <=
             fixture.info.max_context);
}

template <class Message>
bool Parse(std::string_view bytes, Message& message) {
  const grpc::Slice slice(bytes.data(), bytes.size());
  return rpc::ParseMessage(grpc::ByteBuffer(&slice, 1), message).ok();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static auto& fixture = *new Fixture;
  if (size == 0) return 0;
  const std::string text = InputText(data + 1, size - 1);
  const rpc::ServiceContext& services = fixture.services;
  switch (data[0] % 6) {
    case 0: {
      liftserve::v1::GenerateRequest request;
      if (Parse(text, request)) CheckAdmitted(fixture, rpc::Admit(services, {}, request));
      break;
    }
    case 1: {
      liftserve::v1::ChatRequest request;
      if (!Parse(text, request)) break;
      auto prompt = rpc::ChatPrompt(services, request.messages());
      if (!prompt.ok()) break;
      auto translated =
          rpc::ToEngineRequest(services, rpc::PartsOf(request), *std::move(prompt), {});
      if (translated.ok()) {
        CheckAdmitted(fixture, rpc::AdmitToQuota(services.shared, *std::move(translated)));
      }
      break;
    }
    case 2: {
      inference::ModelInferRequest request;
      if (!Parse(text, request)) break;
      const auto asked = rpc::ToInference(services, request);
      if (!asked.ok()) break;
      CheckAdmitted(fixture, rpc::Admit(services, {}, asked->request));
      const auto response = [&] {
        rpc::OipPiece piece;
        piece.text = "x";
        piece.token_ids = {1, 2};
        return rpc::ToResponse(*asked, piece);
      }();
      LIFT_CHECK(!response.SerializeAsString().empty());
      break;
    }
    case 3: {
      vllm::grpc::engine::GenerateRequest request;
      if (!Parse(text, request)) break;
      const auto translated = rpc::FromVllm(services, request);
      if (translated.ok()) CheckAdmitted(fixture, rpc::Admit(services, {}, *translated));
      break;
    }
    case 4: {
      liftserve::v1::ExplainRouteRequest request;
      liftserve::v1::ExplainRouteResponse response;
      if (Parse(text, request)) (void)rpc::Explain(services, request, response);
      break;
    }
    default: {
      const auto ring = KeyRing::Parse(text);
      if (ring.ok()) LIFT_CHECK(!ring->Authenticate(text).ok());
    }
  }
  return 0;
}
