// Traces of a file's variants on a file of prompts, run here or read from an earlier run.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "calibration/router/trace.h"
#include "kernels/base/kv_format.h"

namespace lift {

struct CollectRequest {
  std::string model, prompts;  // lifted file; JSON lines, see prompts.h
  std::string traces;          // kept here, if given
  std::vector<double> cut_mb;  // further variants of these sizes, MB
  int64_t limit = 0;           // the first so many prompts; 0 = all
  int threads = 0;             // 0 = all cores
  KvFormat kv_format = kDefaultKvFormat;
  bool show_progress = true;
  TraceOptions trace;  // its stop_ids and progress are set here
};

// If `traces` names a file, it is read instead of running anything; it must be of the same weights
// and variants (INVALID_ARGUMENT says what differs). Else every prompt is traced, and the result is
// written there if a name is given.
absl::StatusOr<TraceSet> ObtainTraces(const CollectRequest& request);

}  // namespace lift
