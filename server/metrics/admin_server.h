// The admin port: GET /metrics, /healthz, /readyz and the status page over plain HTTP.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "kernels/base/status.h"

namespace lift {

class AdminServer {
 public:
  struct Callbacks {
    std::function<std::string()> metrics;  // text exposition; may run on several threads at once
    // True only when a request sent now would get its first token.
    std::function<bool()> ready;
    bool status_page = false;  // whether / shows it; otherwise / is not found
    // False when only a restart can help; absent = always true. /healthz then answers 503.
    std::function<bool()> alive{};
  };
  // `address` is IP:PORT, [IPV6]:PORT or localhost:PORT; port 0 picks one. INVALID_ARGUMENT if it
  // is malformed, UNAVAILABLE if it cannot be bound.
  static absl::StatusOr<std::unique_ptr<AdminServer>> Start(const std::string& address,
                                                            Callbacks callbacks);
  ~AdminServer();
  int port() const;

 private:
  struct Impl;
  explicit AdminServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lift
