// What to send and when: a pure function of flags and seed.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/bench/serve/lengths.h"

namespace lift::bench {

struct ServeFlags {
  std::string server = "127.0.0.1:8431", tls_ca, api_key_file;
  int64_t clients = 0;   // closed loop
  double rate = 0;       // open loop, requests a second; one of the two
  double seconds = 10;   // how long requests are started
  int64_t requests = 0;  // at most this many; 0 = no limit
  std::string prompt_tokens = "64", output_tokens = "64";
  std::vector<std::string> tenants;
  std::string variant;         // pins it
  double cancel_fraction = 0;  // of requests, cancelled after a random part of their tokens
  double deadline_seconds = 0;
  double slo_ttft = 1, slo_itl = 0.1;  // seconds
  uint64_t seed = 1;
  bool json = false;
  std::string plot;  // SVG file
};

struct PlannedRequest {
  double start_seconds = 0;  // open loop: after the beginning
  std::vector<int32_t> prompt;
  int64_t output_tokens = 1;
  std::string tenant;
  int64_t cancel_after = -1;  // tokens; -1 = never
};

// Draws requests one after the other.
class Workload {
 public:
  // INVALID_ARGUMENT for a distribution that cannot be read. `vocab_size` from the server.
  static absl::StatusOr<Workload> Make(const ServeFlags& flags, int64_t vocab_size,
                                       int64_t max_context);
  PlannedRequest Next();

 private:
  ServeFlags flags_;
  LengthDistribution prompt_, output_;
  int64_t vocab_size_ = 0, max_context_ = 0;
  std::mt19937_64 random_;
  double clock_ = 0;
};

}  // namespace lift::bench
