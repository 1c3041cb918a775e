#include "tests/rpc/fixture.h"

#include <thread>

#include "absl/strings/str_cat.h"

namespace lift::test {

void RpcTest::StartServer(EngineOptions options, bool with_template) {
  StopServer(std::chrono::milliseconds(0));
  auto tokenizer = Tokenizer::Create(ByteTokenizerSpec());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  tokenizer_ = *tokenizer;
  std::shared_ptr<const ChatTemplate> chat_template;
  if (with_template) {
    auto compiled = ChatTemplate::Compile(kChatMl);
    ASSERT_TRUE(compiled.ok()) << compiled.status();
    chat_template = *compiled;
  }
  probes_ = std::make_unique<Probes>(usage_);
  model_probes_ = std::make_unique<ModelProbes>(*probes_, info_);
  observers_ = std::make_unique<ObserverList>(std::vector<EngineObserver*>{model_probes_.get()});
  if (!ledger_path_.empty()) {
    auto ledger = ServerLedger::Open({.path = ledger_path_,
                                      .sync = LedgerSync::kNormal,
                                      .checkpoint = std::chrono::seconds(60),
                                      .drift_check = std::chrono::seconds(0)},
                                     usage_);
    ASSERT_TRUE(ledger.ok()) << ledger.status();
    ledger_ = *std::move(ledger);
    model_ledger_ = std::make_unique<ModelLedger>(*ledger_, info_);
    observers_->Add(model_ledger_.get());
    options.acknowledge = ledger_->acknowledge();
  }
  options.observer = observers_.get();
  options.weight_resident_bytes = info_.resident_bytes;
  engine_ = std::make_unique<Engine>(model_, tokenizer_, options);
  shared_.reset(new rpc::SharedServices{build_, usage_, limits_});
  shared_->access = access_;
  if (ledger_ != nullptr) shared_->ledger = &ledger_->ledger();
  slot_ = std::make_unique<rpc::ModelSlot>(
      *shared_, rpc::ServicesPtr(new rpc::ServiceContext{*engine_, tokenizer_, chat_template, info_,
                                                         *shared_, model_probes_.get()}));
  auto server = rpc::RpcServer::Start(*slot_, {.listen = "127.0.0.1:0"});
  ASSERT_TRUE(server.ok()) << server.status();
  server_ = *std::move(server);
  server_->SetServing(true);
  channel_ = grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials());
  stub_ = api::GenerationService::NewStub(channel_);
  models_ = api::ModelService::NewStub(channel_);
}

void RpcTest::StopServer(std::chrono::milliseconds grace) {
  if (server_) server_->Stop(grace);
  server_.reset();
  slot_.reset();
  engine_.reset();
  shared_.reset();
  observers_.reset();
  model_ledger_.reset();
  ledger_.reset();
  model_probes_.reset();
  probes_.reset();
}

namespace {

template <class R>
R MakeRequest(const std::string& text, int tokens, const std::string& variant) {
  R request;
  request.set_text(text);
  request.mutable_stopping()->set_max_new_tokens(tokens);
  request.mutable_output()->set_token_ids(true);
  if (!variant.empty()) {
    request.mutable_precision()->set_mode(api::PRECISION_MODE_PINNED);
    request.mutable_precision()->set_variant(variant);
  }
  return request;
}

}  // namespace

api::GenerateStreamRequest RpcTest::StreamRequest(const std::string& text, int tokens,
                                                  const std::string& variant) {
  return MakeRequest<api::GenerateStreamRequest>(text, tokens, variant);
}

api::GenerateRequest RpcTest::Request(const std::string& text, int tokens,
                                      const std::string& variant) {
  return MakeRequest<api::GenerateRequest>(text, tokens, variant);
}

std::vector<int32_t> RpcTest::Ids(const std::string& text) {
  std::vector<int32_t> ids{kBos};
  for (unsigned char c : text) ids.push_back(c);
  return ids;
}

bool RpcTest::AllSlotsFree() {
  for (int i = 0; i < 500; ++i) {
    const EngineLoad load = engine_->load();
    if (load.running == 0 && load.waiting == 0 && load.blocks_used == 0) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

Details DetailsOf(const grpc::Status& status) {
  Details details;
  google::rpc::Status rich;
  if (!rich.ParseFromString(status.error_details())) return details;
  EXPECT_EQ(rich.code(), static_cast<int>(status.error_code()));
  EXPECT_EQ(rich.message(), status.error_message());
  for (const auto& detail : rich.details()) {
    details.has_info |= detail.UnpackTo(&details.info);
    details.has_bad |= detail.UnpackTo(&details.bad);
    details.has_precondition |= detail.UnpackTo(&details.precondition);
    details.has_quota |= detail.UnpackTo(&details.quota);
    details.has_retry |= detail.UnpackTo(&details.retry);
  }
  return details;
}

std::string KeyEntry(const NewKey& key, const std::string& tenant, const std::string& role) {
  return absl::StrCat(R"({"id": ")", key.id, R"(", "tenant": ")", tenant, R"(", "role": ")", role,
                      R"(", "salt": ")", key.salt_hex, R"(", "hash": ")", key.hash_hex, R"("})");
}

}  // namespace lift::test
