// Reads and validates the structure of a GGUF file. Counts and lengths are claims: nothing is
// allocated by one before the bytes that it must cover are known to be there.
#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/model/checkpoint/byte_reader.h"
#include "server/model/checkpoint/gguf.h"
#include "server/model/checkpoint/quoted.h"

namespace lift {
namespace {

constexpr uint32_t kMagic = 0x46554747;         // "GGUF"
constexpr uint64_t kMinValueBytes = 8 + 4 + 1;  // empty key, type, one byte
constexpr uint64_t kMinTensorBytes =
    8 + 4 + 8 + 4 + 8;  // empty name, rank 1, one dim, type, offset
constexpr uint64_t kMaxKeyBytes = 65535;
constexpr uint64_t kMaxTensorNameBytes = 255;
constexpr int kMaxArrayDepth = 4;
constexpr uint32_t kMaxRank = 4;

// Element types of tensors by their number in the file; those without a DType are known by name
// only.
struct StoredType {
  uint32_t number;
  const char* name;
  std::optional<DType> type;
};
constexpr std::array<StoredType, 33> kStoredTypes = {{
    {0, "F32", DType::kF32},
    {1, "F16", DType::kF16},
    {2, "Q4_0", DType::kQ4_0},
    {3, "Q4_1", DType::kQ4_1},
    {6, "Q5_0", DType::kQ5_0},
    {7, "Q5_1", DType::kQ5_1},
    {8, "Q8_0", DType::kQ8_0},
    {9, "Q8_1", {}},
    {10, "Q2_K", DType::kQ2_K},
    {11, "Q3_K", DType::kQ3_K},
    {12, "Q4_K", DType::kQ4_K},
    {13, "Q5_K", DType::kQ5_K},
    {14, "Q6_K", DType::kQ6_K},
    {15, "Q8_K", {}},
    {16, "IQ2_XXS", {}},
    {17, "IQ2_XS", {}},
    {18, "IQ3_XXS", {}},
    {19, "IQ1_S", {}},
    {20, "IQ4_NL", {}},
    {21, "IQ3_S", {}},
    {22, "IQ2_S", {}},
    {23, "IQ4_XS", {}},
    {24, "I8", {}},
    {25, "I16", {}},
    {26, "I32", {}},
    {27, "I64", {}},
    {28, "F64", {}},
    {29, "IQ1_M", {}},
    {30, "BF16", DType::kBF16},
    {34, "TQ1_0", {}},
    {35, "TQ2_0", {}},
    {39, "MXFP4", {}},
    {40, "NVFP4", {}},
}};

// Bytes of one element of a fixed-size metadata type; 0 for strings, arrays and unknown types.
uint64_t FixedBytes(GgufType type) {
  switch (type) {
    case GgufType::kUint8:
    case GgufType::kInt8:
    case GgufType::kBool:
      return 1;
    case GgufType::kUint16:
    case GgufType::kInt16:
      return 2;
    case GgufType::kUint32:
    case GgufType::kInt32:
    case GgufType::kFloat32:
      return 4;
    case GgufType::kUint64:
    case GgufType::kInt64:
    case GgufType::kFloat64:
      return 8;
    default:
      return 0;
  }
}

}  // namespace

class GgufParser {
 public:
  GgufParser(std::span<const std::byte> bytes, std::string name)
      : reader_(bytes), file_(new GgufFile()) {
    file_->name_ = std::move(name);
    file_->bytes_ = bytes;
  }

  absl::StatusOr<std::unique_ptr<GgufFile>> Run() {
    LIFT_RETURN_IF_ERROR(ReadHeader());
    for (uint64_t i = 0; i < value_count_; ++i) LIFT_RETURN_IF_ERROR(ReadKeyValue());
    LIFT_RETURN_IF_ERROR(ReadAlignment());
    for (uint64_t i = 0; i < tensor_count_; ++i) LIFT_RETURN_IF_ERROR(ReadTensorInfo());
    LIFT_RETURN_IF_ERROR(PlaceTensors());
    return std::move(file_);
  }

 private:
  template <typename... Args>
  absl::Status Bad(const Args&... args) const {
    return absl::InvalidArgumentError(absl::StrCat(file_->name_, ": ", args...));
  }
  absl::Status Truncated(const char* where) const {
    return Bad("the file ends inside ", where, " at byte ", reader_.position(),
               "; it is truncated or damaged");
  }

  absl::Status ReadHeader() {
    uint32_t magic = 0;
    if (!reader_.Read(magic) || magic != kMagic)
      return Bad("this is not a GGUF file (no GGUF magic)");
    uint32_t version = 0;
    if (!reader_.Read(version)) return Truncated("the header");
    if (version != 0 && (version & 0xFFFF) == 0) {
      return absl::UnimplementedError(absl::StrCat(
          file_->name_,
          ": big-endian GGUF is not supported; convert the model to a little-endian file"));
    }
    if (version != 2 && version != 3) {
      return absl::UnimplementedError(
          absl::StrCat(file_->name_, ": GGUF version ", version,
                       " is not supported; versions 2 and 3 are: convert the model again"));
    }
    file_->version_ = version;
    if (!reader_.Read(tensor_count_) || !reader_.Read(value_count_)) return Truncated("the header");
    const uint64_t left = reader_.remaining();
    if (value_count_ > left / kMinValueBytes || tensor_count_ > left / kMinTensorBytes) {
      return Bad("the header claims ", value_count_, " metadata values and ", tensor_count_,
                 " tensors, more than the file's ", file_->bytes_.size(), " bytes can hold");
    }
    return absl::OkStatus();
  }

  absl::Status ReadKeyValue() {
    std::string_view key;
    if (!reader_.ReadString(key)) return Truncated("a metadata key");
    if (key.empty() || key.size() > kMaxKeyBytes) {
      return Bad("a metadata key has ", key.size(), " bytes; 1 to ", kMaxKeyBytes, " are allowed");
    }
    GgufFile::Value value;
    uint32_t type = 0;
    if (!reader_.Read(type)) return Truncated("a metadata value");
    value.type = value.element = static_cast<GgufType>(type);
    size_t begin = reader_.position();
    if (value.type == GgufType::kArray) {
      LIFT_RETURN_IF_ERROR(ReadArrayHeader(key, value.element, value.count));
      begin = reader_.position();
      LIFT_RETURN_IF_ERROR(SkipElements(key, value.element, value.count, 1));
    } else {
      LIFT_RETURN_IF_ERROR(SkipElements(key, value.element, 1, 0));
    }
    value.raw = file_->bytes_.subspan(begin, reader_.position() - begin);
    if (!file_->values_.emplace(key, value).second) {
      return Bad("metadata ", Quoted(key), " is there twice");
    }
    return absl::OkStatus();
  }

  absl::Status ReadArrayHeader(std::string_view key, GgufType& element, uint64_t& count) {
    uint32_t type = 0;
    if (!reader_.Read(type) || !reader_.Read(count)) {
      return Truncated("a metadata array");
    }
    element = static_cast<GgufType>(type);
    const uint64_t smallest = element == GgufType::kString  ? 8
                              : element == GgufType::kArray ? 12
                                                            : FixedBytes(element);
    if (smallest == 0) return UnknownType(key, type);
    if (count > reader_.remaining() / smallest) {
      return Bad("metadata ", Quoted(key), " claims ", count,
                 " elements, more than the file holds");
    }
    return absl::OkStatus();
  }

  // Moves past `count` values of one type, checking each. `count` was compared with the bytes left.
  absl::Status SkipElements(std::string_view key, GgufType type, uint64_t count, int depth) {
    if (type == GgufType::kString) {
      std::string_view text;
      for (uint64_t i = 0; i < count; ++i) {
        if (!reader_.ReadString(text)) return Truncated("a metadata string");
      }
      return absl::OkStatus();
    }
    if (type == GgufType::kArray) {
      if (depth >= kMaxArrayDepth) {
        return Bad("metadata ", Quoted(key), " nests arrays deeper than ", kMaxArrayDepth);
      }
      for (uint64_t i = 0; i < count; ++i) {
        GgufType element{};
        uint64_t inner = 0;
        LIFT_RETURN_IF_ERROR(ReadArrayHeader(key, element, inner));
        LIFT_RETURN_IF_ERROR(SkipElements(key, element, inner, depth + 1));
      }
      return absl::OkStatus();
    }
    const uint64_t size = FixedBytes(type);
    if (size == 0) return UnknownType(key, static_cast<uint32_t>(type));
    std::span<const std::byte> raw;
    if (count > reader_.remaining() / size || !reader_.ReadBytes(count * size, raw)) {
      return Truncated("a metadata value");
    }
    if (type == GgufType::kBool &&
        std::any_of(raw.begin(), raw.end(), [](std::byte b) { return b > std::byte{1}; })) {
      return Bad("metadata ", Quoted(key), " is a boolean that is neither 0 nor 1");
    }
    return absl::OkStatus();
  }

  absl::Status UnknownType(std::string_view key, uint32_t type) const {
    return Bad("metadata ", Quoted(key), " has the unknown type ", type);
  }

  absl::Status ReadAlignment() {
    LIFT_ASSIGN_OR_RETURN(const int64_t alignment, file_->GetInt("general.alignment", 32));
    if (alignment < 8 || alignment > 65536 ||
        !std::has_single_bit(static_cast<uint64_t>(alignment))) {
      return Bad("general.alignment is ", alignment,
                 "; a power of two from 8 to 65536 is expected");
    }
    alignment_ = static_cast<uint64_t>(alignment);
    return absl::OkStatus();
  }

  absl::Status ReadTensorInfo() {
    GgufTensor tensor;
    uint32_t rank = 0;
    if (!reader_.ReadString(tensor.name) || !reader_.Read(rank))
      return Truncated("a tensor description");
    if (tensor.name.empty() || tensor.name.size() > kMaxTensorNameBytes) {
      return Bad("a tensor name has ", tensor.name.size(), " bytes; 1 to ", kMaxTensorNameBytes,
                 " are allowed");
    }
    const std::string quoted = Quoted(tensor.name);
    if (rank < 1 || rank > kMaxRank) {
      return Bad("tensor ", quoted, " has ", rank, " dimensions; 1 to ", kMaxRank, " are allowed");
    }
    uint64_t elements = 1;
    for (uint32_t i = 0; i < rank; ++i) {
      uint64_t dim = 0;
      if (!reader_.Read(dim)) return Truncated("a tensor description");
      constexpr uint64_t kMaxElements = uint64_t{1}
                                        << 48;  // far above any file, far below overflow
      if (dim == 0 || dim > kMaxElements / elements) {
        return Bad("tensor ", quoted, " has an impossible dimension ", dim);
      }
      elements *= dim;
      tensor.dims.push_back(static_cast<int64_t>(dim));
    }
    uint32_t type = 0;
    uint64_t offset = 0;
    if (!reader_.Read(type) || !reader_.Read(offset)) return Truncated("a tensor description");
    LIFT_ASSIGN_OR_RETURN(tensor.type, FindType(quoted, type));
    if (tensor.dims[0] % BlockElements(tensor.type) != 0) {
      return Bad("tensor ", quoted, " has rows of ", tensor.dims[0],
                 " elements, not a multiple of the ", BlockElements(tensor.type), " of a ",
                 std::string(DTypeName(tensor.type)), " block");
    }
    if (offset % alignment_ != 0) {
      return Bad("tensor ", quoted, " begins at offset ", offset,
                 ", not a multiple of the alignment ", alignment_);
    }
    if (!file_->tensor_index_.emplace(tensor.name, file_->tensors_.size()).second) {
      return Bad("tensor ", quoted, " is there twice");
    }
    file_->tensors_.push_back(std::move(tensor));
    extents_.push_back(
        {offset, elements / static_cast<uint64_t>(BlockElements(file_->tensors_.back().type)) *
                     BlockBytes(file_->tensors_.back().type)});
    return absl::OkStatus();
  }

  absl::StatusOr<DType> FindType(const std::string& quoted, uint32_t number) const {
    const auto known = std::find_if(kStoredTypes.begin(), kStoredTypes.end(),
                                    [number](const StoredType& t) { return t.number == number; });
    if (known != kStoredTypes.end() && known->type) return *known->type;
    std::string supported;
    for (const StoredType& type : kStoredTypes) {
      if (type.type) absl::StrAppend(&supported, supported.empty() ? "" : ", ", type.name);
    }
    return absl::UnimplementedError(absl::StrCat(
        file_->name_, ": tensor ", quoted, " has element type ",
        known == kStoredTypes.end() ? absl::StrCat("number ", number) : std::string(known->name),
        ", which is not supported; supported are ", supported));
  }

  // Gives every tensor its bytes; extents must lie in the file and must not overlap.
  absl::Status PlaceTensors() {
    if (file_->tensors_.empty()) return absl::OkStatus();
    const uint64_t size = file_->bytes_.size();
    const uint64_t data = (reader_.position() + alignment_ - 1) / alignment_ * alignment_;
    std::vector<size_t> order(extents_.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(),
              [this](size_t a, size_t b) { return extents_[a].offset < extents_[b].offset; });
    uint64_t end_before = 0;
    for (const size_t i : order) {
      GgufTensor& tensor = file_->tensors_[i];
      const auto [offset, bytes] = extents_[i];
      if (data > size || offset > size - data || bytes > size - data - offset) {
        return Bad("tensor ", Quoted(tensor.name), " needs ", bytes, " bytes at offset ", offset,
                   " of the data, but the file has ", size, " bytes; it is truncated or damaged");
      }
      if (offset < end_before)
        return Bad("tensor ", Quoted(tensor.name), " overlaps the tensor before it");
      end_before = offset + bytes;
      tensor.bytes =
          file_->bytes_.subspan(static_cast<size_t>(data + offset), static_cast<size_t>(bytes));
    }
    return absl::OkStatus();
  }

  struct Extent {
    uint64_t offset, bytes;  // offset from the start of the data section
  };

  ByteReader reader_;
  std::unique_ptr<GgufFile> file_;
  uint64_t tensor_count_ = 0, value_count_ = 0, alignment_ = 32;
  std::vector<Extent> extents_;
};

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Parse(std::span<const std::byte> bytes,
                                                          std::string name) {
  return GgufParser(bytes, std::move(name)).Run();
}

}  // namespace lift
