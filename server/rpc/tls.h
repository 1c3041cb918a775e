// Transport security of the serving port.
#pragma once

#include <grpcpp/security/server_credentials.h>

#include <memory>
#include <string>

#include "kernels/base/status.h"

namespace lift::rpc {

struct TlsOptions {
  std::string cert_file, key_file;  // PEM; both empty = plaintext
  std::string client_ca_file;       // PEM; empty = clients need no certificate
  bool require_client_certificate = true;
  unsigned reload_seconds = 30;  // the files are read again this often; open connections stay
};

// Loads and checks the files now, so that a wrong pair stops the start instead of every handshake.
// INVALID_ARGUMENT naming the file; never quotes its content.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const TlsOptions& options);

}  // namespace lift::rpc
