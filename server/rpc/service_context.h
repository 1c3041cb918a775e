// What every service of the RPC layer sees of the rest of the server.
#pragma once

#include <grpcpp/server_context.h>

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "kernels/base/status.h"
#include "server/engine/engine.h"
#include "server/metrics/usage_totals.h"
#include "server/model_info.h"
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
  int64_t priority = 100;  // absolute value
};

// Ids of the requests this layer has in the engine, so that a drain whose grace has run out can end
// them. Thread-safe.
class LiveCalls {
 public:
  uint64_t Add(const std::string& request_id);  // returns a ticket for Remove
  void Remove(uint64_t ticket);
  // From now on a cancelled request answers UNAVAILABLE/DRAINING: it was not its client that ended
  // it.
  std::vector<std::string> BeginAbort();
  bool aborting() const { return aborting_.load(); }

 private:
  std::mutex mutex_;
  std::map<uint64_t, std::string> ids_;
  uint64_t next_ticket_ = 0;
  std::atomic<bool> aborting_{false};
};

// Borrowed parts outlive the gRPC server. Read-only after construction but for `live`.
struct ServiceContext {
  Engine& engine;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const ChatTemplate> chat_template;  // null: the model has none
  const ModelInfo& model;
  const BuildInfo& build;
  const UsageTotals& usage;
  EngineObserver* observer = nullptr;  // told of refusals that never reach the engine; may be null
  Limits limits;
  LiveCalls live;
};

// Who asks and until when, from a call's metadata.
struct Caller {
  std::string tenant = "default";
  std::optional<EngineClock::time_point> deadline;
};

// INVALID_ARGUMENT for a tenant that is not 1 to 64 of [A-Za-z0-9_.-] or starts with "__".
absl::StatusOr<Caller> CallerOf(const grpc::CallbackServerContext& context);

// NOT_FOUND unless `name` is the model's or empty.
absl::Status CheckModel(const ServiceContext& context, const std::string& name);

}  // namespace lift::rpc
