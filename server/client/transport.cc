#include "server/client/transport.h"

#include <grpcpp/grpcpp.h>

#include <cstdlib>
#include <fstream>
#include <iterator>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace lift::client {
namespace {

absl::StatusOr<std::string> ReadText(const std::string& path) {
  if (path.empty()) return std::string();
  std::ifstream in(path);
  std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  if (!in.good() && !in.eof())
    return absl::InvalidArgumentError(absl::StrCat(path, " cannot be read"));
  return text;
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::Channel>> Connect(const ClientOptions& options) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  auto credentials = grpc::InsecureChannelCredentials();
  if (options.tls || !options.tls_ca.empty() || !options.tls_cert.empty()) {
    grpc::SslCredentialsOptions tls;
    for (const auto& [path, out] : {std::pair{&options.tls_ca, &tls.pem_root_certs},
                                    {&options.tls_cert, &tls.pem_cert_chain},
                                    {&options.tls_key, &tls.pem_private_key}}) {
      auto text = ReadText(*path);
      if (!text.ok()) return text.status();
      *out = *std::move(text);
    }
    credentials = grpc::SslCredentials(tls);
    if (!options.tls_server_name.empty()) {
      arguments.SetSslTargetNameOverride(options.tls_server_name);
    }
  }
  return grpc::CreateCustomChannel(options.server, credentials, arguments);
}

absl::StatusOr<std::string> ReadApiKey(const ClientOptions& options) {
  if (options.api_key_file.empty()) {
    const char* key = std::getenv("LIFTSERVE_API_KEY");
    return std::string(key == nullptr ? "" : key);
  }
  auto text = ReadText(options.api_key_file);
  if (!text.ok()) return text.status();
  return std::string(absl::StripAsciiWhitespace(*text));
}

}  // namespace lift::client
