#include "server/metrics/admin_server.h"

#include <CivetServer.h>

#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/metrics/status_page.h"

namespace lift {
namespace {

// What a browser may do with an answer: run the page's own script and style, ask this server, and
// nothing else.
constexpr char kContentPolicy[] =
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

struct Reply {
  int code = 200;
  const char* type = "text/plain; charset=utf-8";
  std::string body;
};

// Answers GET with what `make` returns.
class Endpoint : public CivetHandler {
 public:
  explicit Endpoint(std::function<Reply()> make) : make_(std::move(make)) {}

  bool handleGet(CivetServer*, mg_connection* connection) override {
    const Reply reply = make_();
    mg_printf(connection,
              "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n"
              "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
              "Content-Security-Policy: %s\r\n\r\n",
              reply.code, mg_get_response_code_text(connection, reply.code), reply.type,
              reply.body.size(), kContentPolicy);
    mg_write(connection, reply.body.data(), reply.body.size());
    return true;
  }

 private:
  std::function<Reply()> make_;
};

// civetweb takes numeric addresses only.
absl::StatusOr<std::string> ListenSpec(const std::string& address) {
  const size_t colon = address.rfind(':');
  int port = -1;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(address.substr(colon + 1), &port) || port < 0 || port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("admin address '", address, "' is not HOST:PORT; give e.g. 127.0.0.1:9090"));
  }
  const std::string host = address.substr(0, colon);
  return absl::StrCat(host == "localhost" ? "127.0.0.1" : host, ":", port);
}

}  // namespace

struct AdminServer::Impl {
  Endpoint metrics, healthz, readyz, page;
  std::unique_ptr<CivetServer>
      server;  // after the endpoints: destroyed first, it stops calling them

  explicit Impl(Callbacks callbacks)
      : metrics([f = std::move(callbacks.metrics)] {
          return Reply{200, "text/plain; version=0.0.4; charset=utf-8", f()};
        }),
        healthz([f = std::move(callbacks.alive)] {
          return !f || f() ? Reply{.body = "ok\n"} : Reply{.code = 503, .body = "stuck\n"};
        }),
        readyz([f = std::move(callbacks.ready)] {
          return f() ? Reply{.body = "ready\n"} : Reply{.code = 503, .body = "not ready\n"};
        }),
        page([] {
          return Reply{200, "text/html; charset=utf-8", std::string(StatusPage())};
        }) {}
};

AdminServer::AdminServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
AdminServer::~AdminServer() = default;

absl::StatusOr<std::unique_ptr<AdminServer>> AdminServer::Start(const std::string& address,
                                                                Callbacks callbacks) {
  LIFT_ASSIGN_OR_RETURN(const std::string spec, ListenSpec(address));
  const bool status_page = callbacks.status_page;
  auto impl = std::make_unique<Impl>(std::move(callbacks));
  try {
    impl->server = std::make_unique<CivetServer>(std::vector<std::string>{
        "listening_ports", spec, "num_threads", "2", "request_timeout_ms", "10000"});
  } catch (const CivetException&) {
    return absl::UnavailableError(absl::StrCat("cannot listen on admin address ", address,
                                               "; is the port taken or the host not an IP of "
                                               "this machine?"));
  }
  impl->server->addHandler("/metrics$", impl->metrics);
  impl->server->addHandler("/healthz$", impl->healthz);
  impl->server->addHandler("/readyz$", impl->readyz);
  if (status_page) impl->server->addHandler("/$", impl->page);
  return std::unique_ptr<AdminServer>(new AdminServer(std::move(impl)));
}

int AdminServer::port() const {
  const std::vector<int> ports = impl_->server->getListeningPorts();
  return ports.empty() ? 0 : ports.front();
}

}  // namespace lift
