#include "server/model/checkpoint/safetensors.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/model/checkpoint/byte_reader.h"
#include "server/model/checkpoint/json_fields.h"
#include "server/model/checkpoint/quoted.h"

namespace lift {
namespace {

using nlohmann::json;

// The format's own cap; without one a lying length costs memory.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr uint64_t kMaxElements = uint64_t{1} << 48;
constexpr size_t kMaxRank = 8;

struct StoredType {
  const char* name;
  uint64_t bytes;  // per element
  std::optional<DType> type;
};
constexpr std::array<StoredType, 16> kStoredTypes = {{
    {"F32", 4, DType::kF32},
    {"F16", 2, DType::kF16},
    {"BF16", 2, DType::kBF16},
    {"F64", 8, {}},
    {"I64", 8, {}},
    {"I32", 4, {}},
    {"I16", 2, {}},
    {"I8", 1, {}},
    {"U64", 8, {}},
    {"U32", 4, {}},
    {"U16", 2, {}},
    {"U8", 1, {}},
    {"BOOL", 1, {}},
    {"F8_E4M3", 1, {}},
    {"F8_E5M2", 1, {}},
    {"C64", 8, {}},
}};

// Where a tensor lies in the data section, [begin, end).
struct Extent {
  uint64_t begin = 0, end = 0;
};

// Non-negative integers only.
bool ReadList(const json& value, std::vector<uint64_t>& out) {
  if (!value.is_array()) return false;
  for (const json& item : value) {
    if (!item.is_number_unsigned()) return false;
    out.push_back(item.get<uint64_t>());
  }
  return true;
}

absl::Status Bad(const std::string& file, const std::string& tensor, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(file, ": tensor ", Quoted(tensor), " ", what));
}

// One entry of the header; the extent's place in the file is checked by the caller.
absl::StatusOr<Extent> ReadEntry(const std::string& file, const std::string& name,
                                 const json& entry, SafetensorsTensor& tensor) {
  if (!entry.is_object() || !entry.contains("dtype") || !entry.contains("shape") ||
      !entry.contains("data_offsets") || !entry["dtype"].is_string()) {
    return Bad(file, name, "needs dtype, shape and data_offsets in the header");
  }
  tensor.dtype = entry["dtype"].get<std::string>();
  const auto known =
      std::find_if(kStoredTypes.begin(), kStoredTypes.end(),
                   [&tensor](const StoredType& t) { return tensor.dtype == t.name; });
  if (known == kStoredTypes.end()) {
    return absl::UnimplementedError(
        absl::StrCat(file, ": tensor ", Quoted(name), " has dtype ", Quoted(tensor.dtype),
                     ", which is not supported; supported are F32, F16 and BF16"));
  }
  tensor.type = known->type;
  std::vector<uint64_t> shape, offsets;
  if (!ReadList(entry["shape"], shape) || shape.size() > kMaxRank) {
    return Bad(file, name,
               absl::StrCat("needs a shape of at most ", kMaxRank, " non-negative integers"));
  }
  uint64_t elements = 1;
  for (const uint64_t dim : shape) {
    if (dim > kMaxElements || (dim != 0 && elements > kMaxElements / dim)) {
      return Bad(file, name, absl::StrCat("has an impossible dimension ", dim));
    }
    elements *= dim;
    tensor.shape.push_back(static_cast<int64_t>(dim));
  }
  if (!ReadList(entry["data_offsets"], offsets) || offsets.size() != 2 || offsets[0] > offsets[1]) {
    return Bad(file, name, "needs data_offsets [begin, end] with begin <= end");
  }
  if (offsets[1] - offsets[0] != elements * known->bytes) {
    return Bad(file, name,
               absl::StrCat("has ", offsets[1] - offsets[0],
                            " bytes, but its shape and dtype need ", elements * known->bytes));
  }
  return Extent{offsets[0], offsets[1]};
}

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  LIFT_ASSIGN_OR_RETURN(std::shared_ptr<const MappedFile> mapped, MappedFile::Open(path));
  LIFT_ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file, Parse(mapped->bytes(), path));
  file->file_ = std::move(mapped);
  return file;
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Parse(
    std::span<const std::byte> bytes, std::string name) {
  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile());
  file->name_ = std::move(name);
  file->bytes_ = bytes;
  ByteReader reader(bytes);
  uint64_t header_bytes = 0;
  std::span<const std::byte> header;
  if (!reader.Read(header_bytes) || header_bytes > kMaxHeaderBytes ||
      !reader.ReadBytes(header_bytes, header)) {
    return absl::InvalidArgumentError(
        absl::StrCat(file->name_, ": not a safetensors file, or truncated: its header claims ",
                     header_bytes, " bytes of ", bytes.size()));
  }
  const std::string_view text(reinterpret_cast<const char*>(header.data()), header.size());
  LIFT_ASSIGN_OR_RETURN(const json entries, ParseJsonObject(text, file->name_ + ": header"));

  const std::span<const std::byte> data = bytes.subspan(reader.position());
  std::vector<std::pair<Extent, std::string>> extents;
  for (const auto& [tensor_name, entry] : entries.items()) {
    if (tensor_name == "__metadata__") continue;
    SafetensorsTensor tensor;
    LIFT_ASSIGN_OR_RETURN(const Extent extent, ReadEntry(file->name_, tensor_name, entry, tensor));
    if (extent.end > data.size()) {
      return Bad(file->name_, tensor_name,
                 absl::StrCat("ends at byte ", extent.end, " of the data, but the file has only ",
                              data.size(), "; it is truncated or damaged"));
    }
    tensor.bytes = data.subspan(static_cast<size_t>(extent.begin),
                                static_cast<size_t>(extent.end - extent.begin));
    extents.emplace_back(extent, tensor_name);
    file->tensors_.emplace(tensor_name, std::move(tensor));
  }
  // The format forbids holes, which also makes most damage to the offsets visible.
  std::sort(extents.begin(), extents.end(), [](const auto& a, const auto& b) {
    return std::pair(a.first.begin, a.first.end) < std::pair(b.first.begin, b.first.end);
  });
  uint64_t end_before = 0;
  for (const auto& [extent, tensor_name] : extents) {
    if (extent.begin != end_before) {
      return Bad(file->name_, tensor_name,
                 extent.begin < end_before ? "overlaps the tensor before it"
                                           : "leaves a hole in the data before it");
    }
    end_before = extent.end;
  }
  if (end_before != data.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(file->name_, ": ", data.size() - end_before,
                     " bytes after the last tensor; the file is damaged"));
  }
  return file;
}

}  // namespace lift
