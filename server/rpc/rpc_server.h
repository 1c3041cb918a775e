// The gRPC server: services, health, reflection, limits, and how it stops.
#pragma once

#include <grpc/impl/codegen/compression_types.h>
#include <grpcpp/security/server_credentials.h>

#include <chrono>
#include <memory>
#include <string>

#include "kernels/base/status.h"
#include "server/rpc/model_slot.h"

namespace lift::rpc {

class RpcServer {
 public:
  struct Options {
    std::string listen = "127.0.0.1:0";
    int max_message_bytes = 4 << 20;
    std::shared_ptr<grpc::ServerCredentials> credentials{};  // null = plaintext
    std::string health_listen{};  // plaintext, answers grpc.health.v1 and nothing else; "" = none
    int keepalive_ms = 60000;
    int max_connection_age_ms = 0;  // 0 = unlimited; calls of an old connection finish first
    grpc_compression_algorithm compression = GRPC_COMPRESS_NONE;
  };
  // Health starts as NOT_SERVING for "", "liftserve.v1.GenerationService" and every
  // "MODEL/VARIANT"; see SetServing. UNAVAILABLE if the address cannot be bound. `slot` must
  // outlive the server.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(ModelSlot& slot, const Options& options);
  ~RpcServer();  // as Stop(0)

  // The address to connect to, with the port that was picked.
  const std::string& address() const;
  const std::string& health_address() const;  // empty if there is none
  void SetServing(bool serving);              // thread-safe, as Replace is
  // Puts `next` in the slot and tells it to health; false, with nothing changed, once stopping.
  bool Replace(ServicesPtr next);
  // Refuses new work (the engine says DRAINING), lets live requests finish for `grace`, ends the
  // rest with UNAVAILABLE/DRAINING and closes. Returns true if all finished by themselves.
  // Idempotent; one caller.
  bool Stop(std::chrono::milliseconds grace);

 private:
  struct Impl;
  explicit RpcServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lift::rpc
