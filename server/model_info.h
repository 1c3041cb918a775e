// What is served, as plain facts for the RPC and metrics layers. Filled once at start-up; read-only
// afterwards.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace lift {

struct VariantInfo {
  std::string name;
  double lambda = 0, bits_per_weight = 0;
  bool full = false;
  uint64_t bytes = 0;  // a deployment of this variant alone
  uint64_t incremental_bytes =
      0;  // resident because of it and no coarser one; the sum is ModelInfo::resident_bytes
  double kl = -1, perplexity = -1;  // -1 = not measured
};

struct ModelInfo {
  std::string name, architecture;
  std::string weights_sha256, source_sha256;
  int64_t max_context =
      0;  // longest sequence this server takes: the model's context or its state pool
  int64_t vocab_size = 0;
  std::vector<VariantInfo> variants;  // ascending precision, as the engine's
  uint64_t resident_bytes = 0;        // weights, all variants together
  uint64_t state_bytes = 0, workspace_bytes = 0;
  int64_t state_bytes_per_token = 0;
  Backend::MemoryProbe memory_probe = nullptr;  // of a device with memory of its own
  std::string device = "cpu", device_description, kv_format = "f32";
  std::string router_version = "heuristic-1/balanced";  // RouterConfig::Version()
};

struct BuildInfo {
  std::string version, build_type;
  bool cuda_compiled = false;
  std::chrono::system_clock::time_point start_time = std::chrono::system_clock::now();
};

}  // namespace lift
