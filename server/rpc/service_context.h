// What every service of the RPC layer sees of the rest of the server.
#pragma once

#include <grpcpp/server_context.h>

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/base/status.h"
#include "server/billing/ledger.h"
#include "server/engine/engine.h"
#include "server/metrics/usage_totals.h"
#include "server/model_info.h"
#include "server/rpc/load_report.h"
#include "server/security/access.h"
#include "server/security/quota.h"
#include "server/tokenizer/chat_template.h"
#include "server/tokenizer/tokenizer.h"

namespace lift::rpc {

// Caps on what one request may ask for; message size is capped by gRPC itself.
struct Limits {
  size_t prompt_bytes = 1 << 20;
  int chat_messages = 1024;
  int stop_strings = 16;
  size_t stop_string_bytes = 256;
  int stop_token_ids = 64;
  int logit_bias = 300;
  int top_logprobs = 20;
  int choices = 16;
  int64_t default_max_new_tokens = 256;
  int64_t priority = 100;         // absolute value
  int64_t max_prompt_tokens = 0;  // 0 = what the context holds
  int64_t max_answer_tokens = 0;  // 0 = what the context holds
};

// Ids of the requests this layer has in the engine and whose they are: a drain whose grace has run
// out ends them, and nobody cancels another tenant's. Thread-safe.
class LiveCalls {
 public:
  // Returns a ticket for Remove. The engine must live until then.
  uint64_t Add(Engine& engine, const std::string& request_id, const std::string& tenant);
  void Remove(uint64_t ticket);
  // Cancels a request, of whichever engine, if it is `tenant`'s (null: whoever's it is).
  bool Cancel(const std::string& request_id, const std::string* tenant) const;
  // Cancels all. From now on a cancelled request answers UNAVAILABLE/DRAINING: it was not its
  // client that ended it.
  void Abort();
  bool aborting() const { return aborting_.load(); }

 private:
  struct Call {
    Engine* engine;
    std::string request_id, tenant;
  };
  mutable std::mutex mutex_;
  std::map<uint64_t, Call> calls_;
  uint64_t next_ticket_ = 0;
  std::atomic<bool> aborting_{false};
};

// What is to be called when something has changed. Thread-safe: it may be set while others call it,
// and what was set before is not running any more when Set returns.
class Notifier {
 public:
  void Set(std::function<void()> function) {
    const std::lock_guard lock(mutex_);
    function_ = std::move(function);
  }
  void operator()() const {
    const std::lock_guard lock(mutex_);
    if (function_) function_();
  }

 private:
  mutable std::mutex mutex_;
  std::function<void()> function_;  // guarded by mutex_; null: nobody wants to know
};

// Puts another model in the served one's place; `file` is relative to where that one came from,
// empty for the same file again. `done` is called once, on any thread, after new calls go to the
// new model: with its error, nothing has changed.
using SwapModelFunction =
    std::function<void(const std::string& file, std::function<void(absl::Status)> done)>;

// What all calls share, whichever model answers them. Borrowed parts outlive the gRPC server.
// Read-only after construction but for what is thread-safe by itself.
struct SharedServices {
  const BuildInfo& build;
  const UsageTotals& usage;
  Limits limits{};
  LiveCalls live{};
  const Access* access = nullptr;  // null: no authentication, everybody may do everything
  TenantQuotas quotas{};
  LoadReporter load_reporter{};
  std::atomic<bool> serving{false};  // what health says
  Notifier residency_changed{};      // set by RpcServer, which owns health
  const Ledger* ledger = nullptr;    // null: the account is in memory only
  SwapModelFunction swap_model{};    // null: this server keeps its model
};

// A served model and what belongs to it.
struct ServiceContext {
  Engine& engine;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const ChatTemplate> chat_template;  // null: the model has none
  const ModelInfo& model;
  SharedServices& shared;
  EngineObserver* observer = nullptr;  // told of refusals that never reach the engine; may be null
};
// Whoever holds it may call the engine: a model that was swapped leaves memory with the last call.
using ServicesPtr = std::shared_ptr<const ServiceContext>;

// Who asks and until when, from a call's metadata.
struct Caller {
  std::string tenant = "default";
  Role role = Role::kAdmin;   // of a server without authentication
  std::string traceparent{};  // W3C trace context, if it came in a valid form
  std::optional<EngineClock::time_point> deadline;
};

// Without authentication the tenant is the metadata key x-liftserve-tenant ("default" if absent);
// with it, the tenant of the API key ("authorization: Bearer KEY" or "x-api-key"), or else of the
// verified client certificate, and the header may only repeat it. UNAUTHENTICATED
// (MISSING_CREDENTIALS, INVALID_CREDENTIALS), PERMISSION_DENIED (TENANT_MISMATCH), INVALID_ARGUMENT
// (INVALID_TENANT).
absl::StatusOr<Caller> CallerOf(const SharedServices& shared,
                                const grpc::CallbackServerContext& context);

// PERMISSION_DENIED (ADMIN_ONLY) for others.
absl::Status RequireAdmin(const Caller& caller);

// A request the checks let through, and what its tenant's quota set aside for it.
struct Admitted {
  EngineRequest request;
  TenantQuotas::Lease lease;
};
// RESOURCE_EXHAUSTED (TENANT_QUOTA).
absl::StatusOr<Admitted> AdmitToQuota(SharedServices& shared, EngineRequest request);
// What a finished request used, to its lease.
void SettleLease(TenantQuotas::Lease& lease, const RequestUsage& usage);

// NOT_FOUND unless `name` is the model's or empty.
absl::Status CheckModel(const ServiceContext& context, const std::string& name);

}  // namespace lift::rpc
