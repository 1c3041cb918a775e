#include "server/rpc/tls.h"

#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include "absl/strings/str_cat.h"

namespace lift::rpc {
namespace {

absl::Status CheckFiles(const TlsOptions& options) {
  const std::unique_ptr<SSL_CTX, void (*)(SSL_CTX*)> context(SSL_CTX_new(TLS_server_method()),
                                                             SSL_CTX_free);
  if (context == nullptr) return absl::InternalError("OpenSSL gives no context");
  const auto wrong = [](const std::string& file, const char* what) {
    ERR_clear_error();
    return absl::InvalidArgumentError(absl::StrCat(file, ": ", what));
  };
  if (SSL_CTX_use_certificate_chain_file(context.get(), options.cert_file.c_str()) != 1) {
    return wrong(options.cert_file, "no PEM certificate chain can be read from it");
  }
  if (SSL_CTX_use_PrivateKey_file(context.get(), options.key_file.c_str(), SSL_FILETYPE_PEM) != 1 ||
      SSL_CTX_check_private_key(context.get()) != 1) {
    return wrong(options.key_file,
                 "no PEM private key that fits the certificate can be read from it");
  }
  if (!options.client_ca_file.empty() &&
      SSL_CTX_load_verify_locations(context.get(), options.client_ca_file.c_str(), nullptr) != 1) {
    return wrong(options.client_ca_file, "no PEM certificates can be read from it");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const TlsOptions& options) {
  if (options.cert_file.empty()) return grpc::InsecureServerCredentials();
  LIFT_RETURN_IF_ERROR(CheckFiles(options));
  namespace tls = grpc::experimental;
  const bool clients = !options.client_ca_file.empty();
  auto provider = clients ? std::make_shared<tls::FileWatcherCertificateProvider>(
                                options.key_file, options.cert_file, options.client_ca_file,
                                options.reload_seconds)
                          : std::make_shared<tls::FileWatcherCertificateProvider>(
                                options.key_file, options.cert_file, options.reload_seconds);
  tls::TlsServerCredentialsOptions credentials(provider);
  credentials.watch_identity_key_cert_pairs();
  if (clients) {
    credentials.watch_root_certs();
    credentials.set_cert_request_type(
        options.require_client_certificate
            ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
            : GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY);
  } else {
    credentials.set_cert_request_type(GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  }
  return tls::TlsServerCredentials(credentials);
}

}  // namespace lift::rpc
