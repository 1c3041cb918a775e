// Unix microseconds <-> google.protobuf.Timestamp.
#pragma once

#include <google/protobuf/timestamp.pb.h>

#include <chrono>
#include <cstdint>

namespace lift::rpc {

inline google::protobuf::Timestamp ToTimestamp(int64_t unix_us) {
  google::protobuf::Timestamp timestamp;
  timestamp.set_seconds(unix_us / 1000000);
  timestamp.set_nanos(static_cast<int32_t>(unix_us % 1000000) * 1000);
  return timestamp;
}

inline int64_t UnixMicros(std::chrono::system_clock::time_point time) {
  return std::chrono::duration_cast<std::chrono::microseconds>(time.time_since_epoch()).count();
}

}  // namespace lift::rpc
