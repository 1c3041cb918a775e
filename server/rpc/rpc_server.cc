#include "server/rpc/rpc_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <mutex>

#include "absl/strings/str_cat.h"
#include "server/rpc/generation_service.h"
#include "server/rpc/model_service.h"

namespace lift::rpc {
namespace {

constexpr auto kAbortGrace =
    std::chrono::seconds(5);  // cancelled requests free their slot within one step

// gRPC wants its plugins chosen before any builder exists; both switches are process-wide.
void EnablePlugins() {
  static std::once_flag once;
  std::call_once(once, [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  });
}

}  // namespace

struct RpcServer::Impl {
  ServiceContext& services;
  GenerationService generation;
  ModelService models;
  UsageService usage;
  std::unique_ptr<grpc::Server> server;
  std::string address;
  bool stopped = false, drained = true;

  explicit Impl(ServiceContext& s) : services(s), generation(s), models(s), usage(s) {}
};

RpcServer::RpcServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RpcServer::~RpcServer() { Stop(std::chrono::milliseconds(0)); }
const std::string& RpcServer::address() const { return impl_->address; }

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(ServiceContext& services,
                                                            const Options& options) {
  EnablePlugins();
  auto impl = std::make_unique<Impl>(services);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(options.listen, grpc::InsecureServerCredentials(), &port);
  builder.SetMaxReceiveMessageSize(options.max_message_bytes);
  // Two servers must not share a port by accident; a client's pings every 10 s are fine.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10000);
  builder.RegisterService(&impl->generation);
  builder.RegisterService(&impl->models);
  builder.RegisterService(&impl->usage);
  impl->server = builder.BuildAndStart();
  if (impl->server == nullptr || port == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", options.listen,
                                               "; is the port taken or the host not an address "
                                               "of this machine?"));
  }
  impl->address = absl::StrCat(options.listen.substr(0, options.listen.rfind(':')), ":", port);
  std::unique_ptr<RpcServer> result(new RpcServer(std::move(impl)));
  result->SetServing(false);
  return result;
}

void RpcServer::SetServing(bool serving) {
  auto* health = impl_->server->GetHealthCheckService();
  health->SetServingStatus("", serving);
  health->SetServingStatus(liftserve::v1::GenerationService::service_full_name(), serving);
  for (const VariantInfo& variant : impl_->services.model.variants) {
    health->SetServingStatus(absl::StrCat(impl_->services.model.name, "/", variant.name), serving);
  }
}

bool RpcServer::Stop(std::chrono::milliseconds grace) {
  if (impl_->stopped || impl_->server == nullptr) return impl_->drained;
  impl_->stopped = true;
  // Watchers and load balancers hear it first; new calls still get a proper DRAINING answer while
  // live ones run.
  impl_->server->GetHealthCheckService()->Shutdown();
  Engine& engine = impl_->services.engine;
  impl_->drained = engine.Drain(grace);
  if (!impl_->drained) {
    for (const std::string& id : impl_->services.live.BeginAbort()) engine.Cancel(id);
    engine.Drain(std::chrono::duration_cast<std::chrono::milliseconds>(kAbortGrace));
  }
  // What is left are answers on their way out and watchers.
  impl_->server->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(500));
  impl_->server->Wait();
  return impl_->drained;
}

}  // namespace lift::rpc
