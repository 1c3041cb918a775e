// Opens and validates a lifted file; every byte is either checked here or covered by a checksum.
#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/format/section_writer.h"

namespace lift {
namespace {

using format::AlignUp;
using format::Section;
using format::SectionKind;

using format::ByteSpan;

absl::Status Invalid(const std::string& message) { return absl::InvalidArgumentError(message); }

template <typename T>
T Get(ByteSpan bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

absl::StatusOr<uint32_t> ReadHeader(ByteSpan file) {
  if (file.size() < format::kHeaderBytes) return Invalid("it is shorter than a header");
  if (std::memcmp(file.data(), format::kMagic.data(), format::kMagic.size()) != 0) {
    return Invalid("it is not a lifted file (wrong magic)");
  }
  if (const auto version = Get<uint32_t>(file, 8); version != format::kVersion) {
    return Invalid(absl::StrCat("it has version ", version, ", this program reads version ",
                                format::kVersion, "; calibrate the model again"));
  }
  if (format::Crc32(file.first(format::kHeaderBytes - 4)) !=
      Get<uint32_t>(file, format::kHeaderBytes - 4)) {
    return Invalid("its header is damaged (checksum)");
  }
  const auto stated = Get<uint64_t>(file, 16);
  if (stated != file.size()) {
    return Invalid(absl::StrCat("it has ", file.size(), " bytes instead of ", stated,
                                "; it was cut short or appended to, copy it again"));
  }
  const auto count = Get<uint32_t>(file, 32);
  if (Get<uint32_t>(file, 12) != format::kHeaderBytes ||
      Get<uint64_t>(file, 24) != format::kHeaderBytes || count > format::kSectionKinds ||
      count + 1 < format::kSectionKinds ||
      !std::all_of(file.begin() + 40, file.begin() + 60,
                   [](std::byte b) { return b == std::byte{0}; })) {
    return Invalid("its header is malformed");
  }
  return count;
}

// Sections are in order of kind and as tight as alignment allows, so none can overlap or hide
// bytes.
absl::StatusOr<std::vector<Section>> ReadSections(ByteSpan file, uint32_t count) {
  const size_t table_bytes = count * format::kSectionEntryBytes;
  if (file.size() < format::kHeaderBytes + table_bytes)
    return Invalid("its section table is cut short");
  const ByteSpan table = file.subspan(format::kHeaderBytes, table_bytes);
  if (format::Crc32(table) != Get<uint32_t>(file, 36))
    return Invalid("its section table is damaged (checksum)");
  std::vector<Section> sections;
  uint64_t end = format::kHeaderBytes + table_bytes;
  for (uint32_t i = 0; i < count; ++i) {
    const size_t at = i * format::kSectionEntryBytes;
    const Section section{static_cast<SectionKind>(i + 1), Get<uint32_t>(table, at + 4),
                          Get<uint64_t>(table, at + 8), Get<uint64_t>(table, at + 16)};
    const char* name = format::SectionName(section.kind);
    if (Get<uint32_t>(table, at) != i + 1 || Get<uint64_t>(table, at + 24) != 0) {
      return Invalid(absl::StrCat("its section table lacks ", name, " or is malformed"));
    }
    if (section.offset != AlignUp(end, format::SectionAlignment(section.kind)) ||
        section.offset > file.size() || section.bytes > file.size() - section.offset) {
      return Invalid(absl::StrCat("its section ", name,
                                  " overlaps another, is misaligned or leaves the file"));
    }
    const ByteSpan gap = file.subspan(end, section.offset - end);
    if (!std::all_of(gap.begin(), gap.end(), [](std::byte b) { return b == std::byte{0}; })) {
      return Invalid(absl::StrCat("the padding before its section ", name, " is damaged"));
    }
    end = section.offset + section.bytes;
    sections.push_back(section);
  }
  if (end != file.size()) return Invalid("it has bytes after its last section");
  return sections;
}

// A page-aligned private copy, for files that are not mapped.
std::shared_ptr<const std::byte> AlignedCopy(ByteSpan bytes) {
  void* memory = std::aligned_alloc(format::kPageBytes,
                                    AlignUp(std::max<size_t>(bytes.size(), 1), format::kPageBytes));
  LIFT_CHECK(memory != nullptr);
  if (!bytes.empty()) std::memcpy(memory, bytes.data(), bytes.size());
  return {static_cast<const std::byte*>(memory),
          [](const std::byte* p) { std::free(const_cast<std::byte*>(p)); }};
}

}  // namespace

struct LiftedFile::Impl {
  std::string path;
  std::shared_ptr<const void> owner;      // the copy behind `bytes`, if it is one
  std::shared_ptr<const MappedFile> map;  // null for a copy
  ByteSpan bytes;
  std::vector<Section> sections;
  bool has_cuts = false;  // of OpenOptions: variants that are not stored
  std::string tokenizer;
  format::Contents contents;
  format::Layout layout;

  ByteSpan section(SectionKind kind) const {
    const size_t index = static_cast<size_t>(kind) - 1;
    if (index >= sections.size()) return {};
    return bytes.subspan(sections[index].offset, sections[index].bytes);
  }
  absl::Status Load(const OpenOptions& options);
  absl::Status Named(const absl::Status& status) const;
  absl::Status CheckSection(SectionKind kind) const;
  absl::Status CheckUnits(uint64_t prefix_bytes, ThreadPool* pool,
                          const std::atomic<bool>* stop) const;
  absl::Status CheckSource(ThreadPool* pool, const std::atomic<bool>* stop) const;
  absl::Status CheckExtents() const;
  absl::Status CheckUnitSums() const;
  absl::Status Bind();
};

absl::Status LiftedFile::Impl::CheckSection(SectionKind kind) const {
  const size_t index = static_cast<size_t>(kind) - 1;
  if (index < sections.size() && format::Crc32(section(kind)) != sections[index].crc) {
    return Invalid(
        absl::StrCat("its section ", format::SectionName(kind), " is damaged (checksum)"));
  }
  return absl::OkStatus();
}

// Pieces of at most this many bytes are checked at once, so that threads share large ones and a
// stop is soon seen.
constexpr size_t kPieceBytes = 4 << 20;

// Crc32 of each of `parts`, by pieces on the pool's threads. CANCELLED once `stop` turns true.
absl::StatusOr<std::vector<uint32_t>> Checksums(std::span<const ByteSpan> parts, ThreadPool* pool,
                                                const std::atomic<bool>* stop) {
  std::vector<ByteSpan> pieces;
  for (const ByteSpan part : parts) {
    for (size_t at = 0; at < part.size(); at += kPieceBytes)
      pieces.push_back(part.subspan(at, std::min(kPieceBytes, part.size() - at)));
  }
  std::vector<uint32_t> sums(pieces.size());
  const auto body = [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end && !(stop != nullptr && *stop); ++i)
      sums[static_cast<size_t>(i)] = format::Crc32(pieces[static_cast<size_t>(i)]);
  };
  const auto count = static_cast<int64_t>(pieces.size());
  pool != nullptr ? pool->ParallelFor(count, 1, body) : body(0, count, 0);
  if (stop != nullptr && *stop) return absl::CancelledError("checking was stopped");
  std::vector<uint32_t> out;
  size_t piece = 0;
  for (const ByteSpan part : parts) {
    uLong crc = 0;
    for (size_t at = 0; at < part.size(); at += kPieceBytes, ++piece)
      crc = crc32_combine(crc, sums[piece], static_cast<z_off_t>(pieces[piece].size()));
    out.push_back(static_cast<uint32_t>(crc));
  }
  return out;
}

absl::Status LiftedFile::Impl::CheckUnits(uint64_t prefix_bytes, ThreadPool* pool,
                                          const std::atomic<bool>* stop) const {
  const ByteSpan planes = section(SectionKind::kPlanes);
  std::vector<ByteSpan> units;
  for (const PlaneUnit& unit : contents.order) {
    const LiftStage& stage =
        contents.tensors[static_cast<size_t>(unit.tensor)].stages[static_cast<size_t>(unit.stage)];
    if (stage.offset >= prefix_bytes) break;
    units.push_back(planes.subspan(stage.offset, stage.bytes));
  }
  LIFT_ASSIGN_OR_RETURN(const std::vector<uint32_t> sums, Checksums(units, pool, stop));
  for (size_t i = 0; i < sums.size(); ++i) {
    if (sums[i] == contents.unit_crcs[i]) continue;
    const LiftedTensor& tensor = contents.tensors[static_cast<size_t>(contents.order[i].tensor)];
    return Invalid(absl::StrCat("stage ", contents.order[i].stage, " of '", tensor.name,
                                "' is damaged (checksum)"));
  }
  return absl::OkStatus();
}

absl::Status LiftedFile::Impl::CheckSource(ThreadPool* pool, const std::atomic<bool>* stop) const {
  const ByteSpan whole[1] = {section(SectionKind::kSource)};
  const size_t index = static_cast<size_t>(SectionKind::kSource) - 1;
  if (index >= sections.size()) return absl::OkStatus();
  LIFT_ASSIGN_OR_RETURN(const std::vector<uint32_t> sums, Checksums(whole, pool, stop));
  if (sums[0] != sections[index].crc) return Invalid("its section SOURCE is damaged (checksum)");
  return absl::OkStatus();
}

absl::Status LiftedFile::Impl::CheckExtents() const {
  const std::pair<SectionKind, uint64_t> expected[] = {
      {SectionKind::kVectors, layout.vectors_bytes},
      {SectionKind::kScales, layout.scales_bytes},
      {SectionKind::kPlanes, layout.planes_bytes},
      {SectionKind::kSource, layout.source_bytes}};
  for (const auto& [kind, bytes_wanted] : expected) {
    if (section(kind).size() != bytes_wanted) {
      return Invalid(absl::StrCat("its section ", format::SectionName(kind), " has ",
                                  section(kind).size(), " bytes, its tensors need ", bytes_wanted));
    }
  }
  return absl::OkStatus();
}

// The checksums of the units must make up the section's.
absl::Status LiftedFile::Impl::CheckUnitSums() const {
  uLong crc = 0;
  for (size_t i = 0; i < contents.order.size(); ++i) {
    const LiftedTensor& tensor = contents.tensors[static_cast<size_t>(contents.order[i].tensor)];
    const LiftStage& stage = tensor.stages[static_cast<size_t>(contents.order[i].stage)];
    crc = crc32_combine(crc, contents.unit_crcs[i], static_cast<z_off_t>(stage.bytes));
  }
  if (crc != sections[static_cast<size_t>(SectionKind::kPlanes) - 1].crc) {
    return Invalid("the checksums of its planes contradict each other");
  }
  return absl::OkStatus();
}

absl::Status LiftedFile::Impl::Bind() {
  const ByteSpan vectors = section(SectionKind::kVectors), scales = section(SectionKind::kScales),
                 source = section(SectionKind::kSource);
  for (size_t i = 0; i < contents.vectors.size(); ++i) {
    contents.vectors[i].values = {
        reinterpret_cast<const float*>(vectors.data() + layout.vector_offsets[i]),
        static_cast<size_t>(contents.vector_counts[i])};
  }
  for (size_t i = 0; i < contents.tensors.size(); ++i) {
    LiftedTensor& tensor = contents.tensors[i];
    tensor.row_scale = {reinterpret_cast<const uint16_t*>(scales.data() + layout.scale_offsets[i]),
                        static_cast<size_t>(tensor.rows)};
    constexpr uint16_t kExponent = 0x7C00;
    if (std::any_of(tensor.row_scale.begin(), tensor.row_scale.end(),
                    [](uint16_t h) { return (h & kExponent) == kExponent; })) {
      return Invalid(absl::StrCat("tensor '", tensor.name, "' has a row scale that is not finite"));
    }
    if (tensor.source) tensor.source->data = source.data() + layout.source_offsets[i];
  }
  return absl::OkStatus();
}

absl::Status LiftedFile::Impl::Load(const OpenOptions& options) {
  LIFT_ASSIGN_OR_RETURN(const uint32_t count, ReadHeader(bytes));
  LIFT_ASSIGN_OR_RETURN(sections, ReadSections(bytes, count));
  for (SectionKind kind :
       {SectionKind::kMeta, SectionKind::kTokenizer, SectionKind::kVectors, SectionKind::kScales}) {
    LIFT_RETURN_IF_ERROR(CheckSection(kind));
  }
  const ByteSpan meta = section(SectionKind::kMeta),
                 tokenizer_bytes = section(SectionKind::kTokenizer);
  LIFT_RETURN_IF_ERROR(format::ParseMeta({reinterpret_cast<const char*>(meta.data()), meta.size()},
                                         contents, layout));
  tokenizer.assign(reinterpret_cast<const char*>(tokenizer_bytes.data()), tokenizer_bytes.size());
  LIFT_RETURN_IF_ERROR(CheckExtents());
  LIFT_RETURN_IF_ERROR(CheckUnitSums());
  has_cuts = !options.cuts.empty();
  if (has_cuts) LIFT_RETURN_IF_ERROR(format::AddCuts(contents, layout, options.cuts));
  if (options.verify_planes) {
    constexpr uint64_t kWorthThreads = 32 << 20;
    ThreadPool pool(bytes.size() < kWorthThreads ? 1 : AvailableCores());
    LIFT_RETURN_IF_ERROR(CheckUnits(layout.planes_bytes, &pool, nullptr));
    LIFT_RETURN_IF_ERROR(CheckSource(&pool, nullptr));
  }
  return Bind();
}

absl::StatusOr<std::shared_ptr<const LiftedFile>> LiftedFile::Load(std::unique_ptr<Impl> impl,
                                                                   const OpenOptions& options) {
  if (absl::Status status = impl->Load(options); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat("cannot read the lifted file '", impl->path,
                                                    "': ", status.message()));
  }
  return std::shared_ptr<const LiftedFile>(new LiftedFile(std::move(impl)));
}

absl::StatusOr<std::shared_ptr<const LiftedFile>> LiftedFile::Open(const std::string& path,
                                                                   OpenOptions options) {
  LIFT_ASSIGN_OR_RETURN(auto map, MappedFile::Open(path));
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  impl->bytes = map->bytes();
  impl->map = std::move(map);
  return Load(std::move(impl), options);
}

absl::StatusOr<std::shared_ptr<const LiftedFile>> LiftedFile::FromBytes(ByteSpan bytes,
                                                                        OpenOptions options) {
  auto impl = std::make_unique<Impl>();
  impl->path = "(memory)";
  auto copy = AlignedCopy(bytes);
  impl->bytes = {copy.get(), bytes.size()};
  impl->owner = std::move(copy);
  return Load(std::move(impl), options);
}

absl::Status LiftedFile::SaveWithRouter(const std::string& path, std::string router_json) const {
  if (impl_->has_cuts) {
    return absl::FailedPreconditionError("a file opened with cuts cannot be written anew");
  }
  format::Contents contents = impl_->contents;
  contents.router = std::move(router_json);
  std::string meta_text;
  try {  // the JSON library reports text that is not UTF-8 by throwing
    meta_text = format::MetaToJson(contents);
  } catch (const std::exception&) {
    return Invalid("the router document is not valid UTF-8");
  }
  format::Pieces meta;
  meta.Append(format::AsBytes(meta_text));
  std::vector<format::Pieces> rest;
  rest.reserve(impl_->sections.size());
  std::vector<format::SectionPart> parts = {{SectionKind::kMeta, &meta}};
  for (const Section& section : impl_->sections) {
    if (section.kind == SectionKind::kMeta) continue;
    rest.emplace_back().Append(impl_->section(section.kind));
    parts.emplace_back(section.kind, &rest.back());
  }
  return format::WriteSections(path, parts);
}

std::string StripName(std::string_view tensor, int k) {
  return absl::StrCat(std::string(tensor), "#", k);
}

bool LooksLikeLiftedFile(ByteSpan beginning) {
  return beginning.size() >= format::kMagic.size() &&
         std::memcmp(beginning.data(), format::kMagic.data(), format::kMagic.size()) == 0;
}

LiftedFile::LiftedFile(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
LiftedFile::~LiftedFile() = default;

const std::string& LiftedFile::path() const { return impl_->path; }
const std::string& LiftedFile::model_config_json() const { return impl_->contents.model_config; }
const std::string& LiftedFile::tokenizer_json() const { return impl_->tokenizer; }
const std::string& LiftedFile::source_sha256() const { return impl_->contents.source_sha256; }
const std::string& LiftedFile::weights_sha256() const { return impl_->contents.weights_sha256; }
const std::string& LiftedFile::report_json() const { return impl_->contents.report; }
const std::string& LiftedFile::router_json() const { return impl_->contents.router; }
std::span<const LiftCode> LiftedFile::codes() const { return impl_->contents.codes; }
std::span<const LiftedTensor> LiftedFile::tensors() const { return impl_->contents.tensors; }
std::span<const LiftedVector> LiftedFile::vectors() const { return impl_->contents.vectors; }
std::span<const PlaneUnit> LiftedFile::plane_order() const { return impl_->contents.order; }
std::span<const LiftedVariant> LiftedFile::variants() const { return impl_->contents.variants; }
std::span<const std::byte> LiftedFile::planes() const {
  return impl_->section(SectionKind::kPlanes);
}
std::span<const std::byte> LiftedFile::source() const {
  return impl_->section(SectionKind::kSource);
}
void LiftedFile::Release(ByteSpan part) const {
  if (impl_->map) impl_->map->Release(part);
}
void LiftedFile::Prefetch(ByteSpan part) const {
  if (impl_->map) impl_->map->Prefetch(part);
}
uint64_t LiftedFile::fixed_bytes() const { return impl_->layout.fixed_bytes(); }

const LiftedTensor* LiftedFile::FindTensor(std::string_view name) const {
  for (const LiftedTensor& tensor : impl_->contents.tensors) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

const LiftedVector* LiftedFile::FindVector(std::string_view name) const {
  for (const LiftedVector& vector : impl_->contents.vectors) {
    if (vector.name == name) return &vector;
  }
  return nullptr;
}

std::vector<int64_t> LiftedFile::StageRows(int tensor, uint64_t plane_bytes) const {
  LIFT_CHECK(tensor >= 0 && static_cast<size_t>(tensor) < impl_->contents.tensors.size());
  return format::RowsInPrefix(impl_->contents.tensors[static_cast<size_t>(tensor)], plane_bytes);
}

absl::Status LiftedFile::Impl::Named(const absl::Status& status) const {
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrCat("the lifted file '", path, "': ", status.message()));
}

absl::Status LiftedFile::VerifyPlanes(uint64_t prefix_bytes, ThreadPool* pool,
                                      const std::atomic<bool>* stop) const {
  return impl_->Named(impl_->CheckUnits(prefix_bytes, pool, stop));
}

absl::Status LiftedFile::VerifySource(ThreadPool* pool, const std::atomic<bool>* stop) const {
  return impl_->Named(impl_->CheckSource(pool, stop));
}

uint64_t LiftedFile::CutPlanes(uint64_t plane_bytes) const {
  return format::CutPlanes(impl_->contents, plane_bytes);
}

std::vector<uint64_t> BytesOfMegabytes(std::span<const double> megabytes) {
  std::vector<uint64_t> bytes;
  for (double mb : megabytes) bytes.push_back(static_cast<uint64_t>(std::llround(mb * 1e6)));
  return bytes;
}

int WideStages(double bits_per_weight) {
  return bits_per_weight < 3.5 ? 0 : bits_per_weight < 5.5 ? 1 : 2;
}

uint64_t CutToRowTile(const LiftedFile& file, uint64_t plane_bytes) {
  return file.fixed_bytes() + file.CutPlanes(plane_bytes);
}

}  // namespace lift
