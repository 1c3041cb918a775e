// One routing decision as the log keeps it: what was asked, what the router saw, what it chose and
// what was served. No prompt, no answer.
#pragma once

#include <cstdint>
#include <string>

namespace lift {

// Row layout this program writes; part of what is hashed.
inline constexpr int64_t kDecisionFormat = 1;

struct RoutingDecision {
  int64_t format = kDecisionFormat;
  int64_t position = 0;             // in the log, from 1 on
  int64_t epoch = 0, sequence = 0;  // of the request, as in LedgerRecord
  int64_t time_us = 0;              // Unix; when the router decided
  std::string request_id, tenant;
  std::string model, weights_sha256, policy;  // policy: the router's version
  // What the request asked for.
  bool pinned = false;
  std::string pinned_variant;
  double min_lambda = 0, max_quality_loss = 0;
  bool allow_fallback = false;
  // What the router saw.
  double score = 0;               // complexity in [0, 1]
  double queue_pressure = 0;      // 0 idle .. 1 saturated
  int64_t resident_variants = 0;  // the coarsest, at that moment
  int64_t prompt_tokens = 0;
  // What kind of prompt it was (router/prompt_class.h); routing did not read it.
  std::string prompt_class, language;
  // What it chose.
  std::string variant;
  double lambda = 0, bits_per_weight = 0;
  std::string reason, fallback_from;  // reason: "AUTO", "LOAD", ...
  // What came of it. Of several answers to one prompt the first's.
  double served_lambda = 0;  // mean over the answer's tokens; `lambda` if there were none
  int64_t generated_tokens = 0;
  std::string outcome;  // canonical code of the request's end; "ABORTED" if the server died
  // The chain.
  std::string key_id;          // of the key behind `hash`; empty = none
  std::string previous, hash;  // 64 hex digits each
};

// Calls f(name, field) for every field in the one order in which rows are hashed and stored. `D` is
// RoutingDecision or const RoutingDecision. `hash`, which is of all the others, comes last.
template <class D, class F>
void VisitDecision(D& d, F&& f) {
  f("format", d.format), f("position", d.position);
  f("epoch", d.epoch), f("sequence", d.sequence), f("time_us", d.time_us);
  f("request_id", d.request_id), f("tenant", d.tenant);
  f("model", d.model), f("weights_sha256", d.weights_sha256), f("policy", d.policy);
  f("pinned", d.pinned), f("pinned_variant", d.pinned_variant);
  f("min_lambda", d.min_lambda), f("max_quality_loss", d.max_quality_loss);
  f("allow_fallback", d.allow_fallback);
  f("score", d.score), f("queue_pressure", d.queue_pressure);
  f("resident_variants", d.resident_variants), f("prompt_tokens", d.prompt_tokens);
  f("prompt_class", d.prompt_class), f("language", d.language);
  f("variant", d.variant), f("lambda", d.lambda), f("bits_per_weight", d.bits_per_weight);
  f("reason", d.reason), f("fallback_from", d.fallback_from);
  f("served_lambda", d.served_lambda), f("generated_tokens", d.generated_tokens);
  f("outcome", d.outcome), f("key_id", d.key_id), f("previous", d.previous), f("hash", d.hash);
}

// Where the log ends. Who keeps `count` and `hash` elsewhere can tell later that nothing up to
// there was removed or changed, whoever holds the file.
struct DecisionHead {
  std::string log_id;  // random; the chain begins with it
  int64_t count = 0;   // rows
  std::string hash;    // the last row's; what the chain begins with if there is none
  std::string key_id;  // of the key behind `seal`; empty = none
  std::string seal;    // digest of the fields above
};

}  // namespace lift
