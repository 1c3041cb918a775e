// Shared by reader and writer: the on-disk constants, the META document and the one canonical
// layout of a lifted file. Internal to kernels/format; users include lifted_file.h.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/format/lifted_file.h"

namespace lift::format {

inline constexpr std::string_view kMagic = "LIFTFILE";
inline constexpr uint32_t kVersion = 1;
inline constexpr size_t kHeaderBytes = 64;
inline constexpr size_t kSectionEntryBytes = 32;
inline constexpr uint64_t kAlignment = 64;
inline constexpr uint64_t kPageBytes = 4096;

// Sections appear in this order, each at most once; all but kSource are required.
enum class SectionKind : uint32_t { kMeta = 1, kTokenizer, kVectors, kScales, kPlanes, kSource };
inline constexpr uint32_t kSectionKinds = 6;
const char* SectionName(SectionKind kind);
uint64_t SectionAlignment(SectionKind kind);

struct Section {
  SectionKind kind = SectionKind::kMeta;
  uint32_t crc = 0;
  uint64_t offset = 0, bytes = 0;
};

inline uint64_t AlignUp(uint64_t n, uint64_t alignment) {
  return (n + alignment - 1) / alignment * alignment;
}

// zlib's CRC-32.
uint32_t Crc32(std::span<const std::byte> bytes);

// Everything META says. The spans of tensors and vectors stay empty until the reader binds them to
// the mapped sections.
struct Contents {
  std::string model_config, source_sha256, weights_sha256, report = "{}", router;
  std::vector<LiftCode> codes;
  std::vector<LiftedTensor> tensors;
  std::vector<LiftedVector> vectors;
  std::vector<uint64_t> vector_counts;  // [vectors]
  std::vector<PlaneUnit> order;
  std::vector<uint32_t> unit_crcs;  // [order]
  std::vector<LiftedVariant> variants;
};

// Where everything lies inside its section. Fully determined by Contents, so a file cannot lie
// about extents.
struct Layout {
  std::vector<uint64_t> vector_offsets, scale_offsets, source_offsets;
  uint64_t vectors_bytes = 0, scales_bytes = 0, planes_bytes = 0, source_bytes = 0;
  uint64_t table_bytes = 0;  // codes and rotation tables
  uint64_t weights = 0;      // quantized weights: sum of rows * cols
  bool has_source = false;   // every tensor has its source
  uint64_t fixed_bytes() const { return vectors_bytes + scales_bytes + table_bytes; }
};

// Validates codes, tensors, vectors and the plane order; fills in every stage's offset and bytes.
absl::Status LayOut(Contents& contents, Layout& layout);

// Cuts plane_bytes down to a whole row tile of the unit it falls into; at most the whole section.
uint64_t CutPlanes(const Contents& contents, uint64_t plane_bytes);
// Rows of every stage of `tensor` inside the prefix.
std::vector<int64_t> RowsInPrefix(const LiftedTensor& tensor, uint64_t plane_bytes);
// Derives lambda, bits_per_weight and bytes of each variant from its plane_bytes (cut to a row tile
// first).
void FillVariants(Contents& contents, const Layout& layout);
// Adds a variant for each budget; see LiftedFile::OpenOptions::cuts.
absl::Status AddCuts(Contents& contents, const Layout& layout, std::span<const uint64_t> budgets);
// Order, names, ranges; derived fields must be what FillVariants gives.
absl::Status CheckVariants(const Contents& contents, const Layout& layout);

std::string MetaToJson(const Contents& contents);
// The part of META that decides outputs, as hashed into weights_sha256.
std::string IdentityJson(const Contents& contents);
// Parses, lays out and checks everything that META alone can tell.
absl::Status ParseMeta(std::string_view json, Contents& contents, Layout& layout);

}  // namespace lift::format
