#include "server/billing/meter.h"

#include <algorithm>

#include "kernels/base/check.h"

namespace lift {
namespace {

// Planes by depth: how many sequences read at least this far.
struct Segment {
  uint64_t end = 0;  // prefix length where it ends
  uint64_t readers = 0;
};

std::vector<Segment> Segments(uint64_t resident, std::span<const MeterSequence> sequences) {
  std::vector<uint64_t> ends;
  for (const MeterSequence& sequence : sequences) {
    if (sequence.plane_bytes > 0) ends.push_back(std::min(sequence.plane_bytes, resident));
  }
  std::sort(ends.begin(), ends.end());
  std::vector<Segment> segments;
  for (size_t i = 0; i < ends.size(); ++i) {
    if (segments.empty() || segments.back().end != ends[i]) {
      segments.push_back({ends[i], ends.size() - i});
    }
  }
  return segments;
}

// Gives each reader of the first `end` plane bytes its part of every segment below; returns the
// undivided remainders.
ByteMicros ShareSegments(std::span<const Segment> segments, uint64_t resident, uint64_t micros,
                         std::span<const MeterSequence> sequences,
                         std::vector<MeterShare>& shares) {
  ByteMicros remainder = 0, cumulative = 0;
  uint64_t begin = 0;
  std::vector<ByteMicros> owed;  // by a reader that ends with this segment
  for (const Segment& segment : segments) {
    const ByteMicros total = ByteMicros{segment.end - begin} * micros;
    cumulative += total / segment.readers;
    remainder += total % segment.readers;
    owed.push_back(cumulative);
    begin = segment.end;
  }
  for (size_t i = 0; i < sequences.size(); ++i) {
    if (sequences[i].plane_bytes == 0) continue;
    const uint64_t end = std::min(sequences[i].plane_bytes, resident);
    const auto it = std::lower_bound(segments.begin(), segments.end(), end,
                                     [](const Segment& s, uint64_t e) { return s.end < e; });
    shares[i].weight += owed[static_cast<size_t>(it - segments.begin())];
  }
  return remainder;
}

}  // namespace

MeterSplit SplitInterval(uint64_t fixed_bytes, uint64_t resident_plane_bytes,
                         uint64_t resident_kv_bytes, std::span<const MeterSequence> sequences,
                         uint64_t micros) {
  MeterSplit split;
  split.shares.resize(sequences.size());
  ByteMicros held = 0;
  uint64_t readers = 0;
  for (size_t i = 0; i < sequences.size(); ++i) {
    split.shares[i].id = sequences[i].id;
    split.shares[i].kv = ByteMicros{sequences[i].kv_bytes} * micros;
    held += sequences[i].kv_bytes;
    if (sequences[i].plane_bytes > 0) ++readers;
  }
  LIFT_CHECK(held <= resident_kv_bytes);
  split.overhead_kv = (resident_kv_bytes - held) * micros;
  if (readers == 0) {
    split.idle_weight = (ByteMicros{fixed_bytes} + resident_plane_bytes) * micros;
    return split;
  }
  const ByteMicros fixed = ByteMicros{fixed_bytes} * micros;
  for (size_t i = 0; i < sequences.size(); ++i) {
    if (sequences[i].plane_bytes > 0) split.shares[i].weight += fixed / readers;
  }
  split.overhead_weight = fixed % readers;
  const std::vector<Segment> segments = Segments(resident_plane_bytes, sequences);
  split.overhead_weight +=
      ShareSegments(segments, resident_plane_bytes, micros, sequences, split.shares);
  split.overhead_weight += ByteMicros{resident_plane_bytes - segments.back().end} * micros;
  return split;
}

}  // namespace lift
