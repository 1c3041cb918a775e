#include "server/rpc/rpc_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <algorithm>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"
#include "server/rpc/compat/oip_service.h"
#include "server/rpc/compat/vllm_service.h"
#include "server/rpc/generation_service.h"
#include "server/rpc/model_service.h"
#include "server/rpc/usage_service.h"

namespace lift::rpc {
namespace {

constexpr auto kAbortGrace =
    std::chrono::seconds(5);  // cancelled requests free their slot within one step
// Time for clients that watch health to go elsewhere before connections are cut.
constexpr std::chrono::milliseconds kHealthHeard(250);

// gRPC wants its plugins chosen before any builder exists; both switches are process-wide.
void EnablePlugins() {
  static std::once_flag once;
  std::call_once(once, [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  });
}

}  // namespace

namespace {

void Configure(const RpcServer::Options& options, grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(options.max_message_bytes);
  builder.SetDefaultCompressionAlgorithm(options.compression);
  // Two servers must not share a port by accident; a client's pings every 10 s are fine.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, options.keepalive_ms);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10000);
  if (options.max_connection_age_ms > 0) {
    // No grace is set: a call on an old connection may take the time it takes.
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, options.max_connection_age_ms);
  }
}

// Starts `out` and returns its address with the port that was picked.
absl::StatusOr<std::string> Listen(grpc::ServerBuilder& builder, const std::string& listen,
                                   std::shared_ptr<grpc::ServerCredentials> credentials,
                                   std::unique_ptr<grpc::Server>& out) {
  int port = 0;
  builder.AddListeningPort(listen, std::move(credentials), &port);
  out = builder.BuildAndStart();
  if (out == nullptr || port == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", listen,
                                               "; is the port taken or the host not an address "
                                               "of this machine?"));
  }
  return absl::StrCat(listen.substr(0, listen.rfind(':')), ":", port);
}

}  // namespace

struct RpcServer::Impl {
  ModelSlot& slot;
  GenerationService generation;
  OipService oip;
  VllmService vllm;
  ModelService models;
  UsageService usage;
  std::unique_ptr<grpc::Server> server;
  std::unique_ptr<grpc::Server> health;  // the plaintext one, may be null
  std::string address, health_address;
  bool stopped = false, drained = true;
  std::mutex health_mutex;  // what is published is published whole, the last word last

  explicit Impl(ModelSlot& s) : slot(s), generation(s), oip(s), vllm(s), models(s), usage(s) {}

  void SetHealth(const std::string& name, bool serving) const {
    for (grpc::Server* s : {server.get(), health.get()}) {
      if (s != nullptr) s->GetHealthCheckService()->SetServingStatus(name, serving);
    }
  }
  // Of the first `resident` variants; of the others NOT_SERVING.
  void SetVariantsHealth(const ModelInfo& model, size_t resident) const {
    for (size_t i = 0; i < model.variants.size(); ++i)
      SetHealth(absl::StrCat(model.name, "/", model.variants[i].name), i < resident);
  }
  // health_mutex held.
  void PublishHealth() const {
    const bool serving = slot.shared().serving;
    SetHealth("", serving);
    SetHealth(liftserve::v1::GenerationService::service_full_name(), serving);
    const ServicesPtr services = slot.current();
    const int resident = serving ? services->engine.resident_variants() : 0;
    SetVariantsHealth(services->model, static_cast<size_t>(resident));
  }
};

RpcServer::RpcServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RpcServer::~RpcServer() { Stop(std::chrono::milliseconds(0)); }
const std::string& RpcServer::address() const { return impl_->address; }
const std::string& RpcServer::health_address() const { return impl_->health_address; }

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(ModelSlot& slot,
                                                            const Options& options) {
  EnablePlugins();
  auto impl = std::make_unique<Impl>(slot);
  grpc::ServerBuilder builder;
  Configure(options, builder);
  builder.RegisterService(&impl->generation);
  builder.RegisterService(&impl->oip);
  builder.RegisterService(&impl->vllm);
  builder.RegisterService(&impl->models);
  builder.RegisterService(&impl->usage);
  LIFT_ASSIGN_OR_RETURN(
      impl->address,
      Listen(builder, options.listen,
             options.credentials ? options.credentials : grpc::InsecureServerCredentials(),
             impl->server));
  if (!options.health_listen.empty()) {
    grpc::ServerBuilder health;
    health.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    health.SetMaxReceiveMessageSize(4096);
    LIFT_ASSIGN_OR_RETURN(
        impl->health_address,
        Listen(health, options.health_listen, grpc::InsecureServerCredentials(), impl->health));
  }
  std::unique_ptr<RpcServer> result(new RpcServer(std::move(impl)));
  result->SetServing(false);
  slot.shared().residency_changed.Set([raw = result->impl_.get()] {
    const std::lock_guard lock(raw->health_mutex);
    raw->PublishHealth();
  });
  return result;
}

void RpcServer::SetServing(bool serving) {
  const std::lock_guard lock(impl_->health_mutex);
  impl_->slot.shared().serving = serving;
  impl_->PublishHealth();
}

bool RpcServer::Replace(ServicesPtr next) {
  const ServicesPtr old = impl_->slot.current();
  const std::lock_guard lock(impl_->health_mutex);
  if (!impl_->slot.Replace(std::move(next))) return false;
  impl_->PublishHealth();
  const ServicesPtr current = impl_->slot.current();
  const auto& variants = current->model.variants;
  for (const VariantInfo& gone : old->model.variants) {
    const auto same = [&](const VariantInfo& v) { return v.name == gone.name; };
    const bool both = old->model.name == current->model.name &&
                      std::any_of(variants.begin(), variants.end(), same);
    if (!both) impl_->SetHealth(absl::StrCat(old->model.name, "/", gone.name), false);
  }
  return true;
}

bool RpcServer::Stop(std::chrono::milliseconds grace) {
  if (impl_->stopped || impl_->server == nullptr) return impl_->drained;
  impl_->stopped = true;
  // Watchers and load balancers hear it first; new calls still get a proper DRAINING answer while
  // live ones run.
  impl_->server->GetHealthCheckService()->Shutdown();
  if (impl_->health) impl_->health->GetHealthCheckService()->Shutdown();
  const auto heard = std::chrono::steady_clock::now() + std::min(grace / 10, kHealthHeard);
  impl_->drained = impl_->slot.Drain(grace);
  // gRPC cancels what arrives while it shuts down, and nobody retries that.
  std::this_thread::sleep_until(heard);
  if (!impl_->drained) {
    impl_->slot.shared().live.Abort();
    impl_->slot.Drain(std::chrono::duration_cast<std::chrono::milliseconds>(kAbortGrace));
  }
  // What is left are answers on their way out and watchers.
  impl_->slot.shared().residency_changed.Set(nullptr);
  impl_->server->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(500));
  impl_->server->Wait();
  if (impl_->health) {
    impl_->health->Shutdown(std::chrono::system_clock::now());
    impl_->health->Wait();
  }
  return impl_->drained;
}

}  // namespace lift::rpc
