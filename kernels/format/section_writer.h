// Writes the sections of a lifted file in one pass: to PATH.tmp, synced and renamed.
#pragma once

#include <zlib.h>

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/base/status.h"
#include "kernels/format/layout.h"

namespace lift::format {

using ByteSpan = std::span<const std::byte>;

template <typename T>
ByteSpan AsBytes(const T& values) {
  return std::as_bytes(std::span(values));
}

// A section's content as pieces that follow each other without gaps (padding is a piece of zeros).
struct Pieces {
  std::vector<ByteSpan> list;
  uint64_t bytes = 0;
  uint32_t crc = 0;

  void Append(ByteSpan piece) {
    const uint32_t piece_crc = Crc32(piece);
    crc = static_cast<uint32_t>(crc32_combine(crc, piece_crc, static_cast<z_off_t>(piece.size())));
    list.push_back(piece);
    bytes += piece.size();
  }
  // Zeros up to the next multiple of `alignment` (at most a page).
  void Pad(uint64_t alignment) {
    static constexpr std::byte kZeros[kPageBytes] = {};
    Append(ByteSpan(kZeros, AlignUp(bytes, alignment) - bytes));
  }
};

using SectionPart = std::pair<SectionKind, const Pieces*>;

// In order of kind. RESOURCE_EXHAUSTED for a full disk; what was at `path` is only replaced once
// everything is written.
absl::Status WriteSections(const std::string& path, std::span<const SectionPart> parts);

}  // namespace lift::format
