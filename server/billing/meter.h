// Splits resident memory x time over those who use it, in integers, conserving every
// byte-microsecond.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace lift {

using ByteMicros = unsigned __int128;

inline constexpr const char* kIdleTenant = "__idle__";
inline constexpr const char* kOverheadTenant = "__overhead__";

// A live sequence during an interval.
struct MeterSequence {
  int64_t id = 0;            // caller's key
  uint64_t plane_bytes = 0;  // prefix of the planes it read in this interval (0: did not run)
  uint64_t kv_bytes = 0;     // state it held (shared blocks already divided)
};

struct MeterShare {
  int64_t id = 0;
  ByteMicros weight = 0, kv = 0;
};

struct MeterSplit {
  std::vector<MeterShare> shares;  // same order as the sequences
  ByteMicros idle_weight = 0;      // nobody ran
  ByteMicros overhead_weight =
      0;  // resident planes nobody read while somebody ran, and fixed bytes' remainder
  ByteMicros overhead_kv = 0;  // state resident but held by no sequence
};

// Each plane byte's time is split equally over the sequences that read it: a coarse query pays only
// for coarse planes. Bytes every reader needs (fixed_bytes: norms, scales, tables) are split over
// all readers. Remainders of integer division go to overhead. Sum of all parts == (fixed_bytes +
// resident_plane_bytes + resident_kv_bytes) * micros, exactly. Pure.
MeterSplit SplitInterval(uint64_t fixed_bytes, uint64_t resident_plane_bytes,
                         uint64_t resident_kv_bytes, std::span<const MeterSequence> sequences,
                         uint64_t micros);

}  // namespace lift
