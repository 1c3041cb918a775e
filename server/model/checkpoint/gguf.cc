#include "server/model/checkpoint/gguf.h"

#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "server/model/checkpoint/byte_reader.h"
#include "server/model/checkpoint/quoted.h"

namespace lift {
namespace {

template <typename T>
T Load(std::span<const std::byte> raw, uint64_t index) {
  T value;
  LIFT_CHECK(index < raw.size() / sizeof(T));
  std::memcpy(&value, raw.data() + index * sizeof(T), sizeof(T));
  return value;
}

bool IsInteger(GgufType type) {
  switch (type) {
    case GgufType::kUint8:
    case GgufType::kInt8:
    case GgufType::kUint16:
    case GgufType::kInt16:
    case GgufType::kUint32:
    case GgufType::kInt32:
    case GgufType::kUint64:
    case GgufType::kInt64:
      return true;
    default:
      return false;
  }
}

bool IsFloat(GgufType type) { return type == GgufType::kFloat32 || type == GgufType::kFloat64; }

// Nothing if it does not fit (uint64 only).
std::optional<int64_t> LoadInt(GgufType type, std::span<const std::byte> raw, uint64_t index) {
  switch (type) {
    case GgufType::kUint8:
      return Load<uint8_t>(raw, index);
    case GgufType::kInt8:
      return Load<int8_t>(raw, index);
    case GgufType::kUint16:
      return Load<uint16_t>(raw, index);
    case GgufType::kInt16:
      return Load<int16_t>(raw, index);
    case GgufType::kUint32:
      return Load<uint32_t>(raw, index);
    case GgufType::kInt32:
      return Load<int32_t>(raw, index);
    case GgufType::kInt64:
      return Load<int64_t>(raw, index);
    case GgufType::kUint64: {
      const uint64_t value = Load<uint64_t>(raw, index);
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
      return static_cast<int64_t>(value);
    }
    default:
      LIFT_CHECK(false);
      return std::nullopt;
  }
}

double LoadFloat(GgufType type, std::span<const std::byte> raw, uint64_t index) {
  return type == GgufType::kFloat32 ? static_cast<double>(Load<float>(raw, index))
                                    : Load<double>(raw, index);
}

template <typename T>
absl::StatusOr<T> OrAbsent(absl::StatusOr<T> found, T absent) {
  return absl::IsNotFound(found.status()) ? absl::StatusOr<T>(absent) : found;
}

}  // namespace

std::string_view GgufTypeName(GgufType type) {
  constexpr std::string_view kNames[] = {"uint8",  "int8",    "uint16",  "int16",  "uint32",
                                         "int32",  "float32", "boolean", "string", "array",
                                         "uint64", "int64",   "float64"};
  const size_t index = static_cast<size_t>(type);
  return index < std::size(kNames) ? kNames[index] : "unknown";
}

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Open(const std::string& path) {
  LIFT_ASSIGN_OR_RETURN(std::shared_ptr<const MappedFile> file, MappedFile::Open(path));
  LIFT_ASSIGN_OR_RETURN(std::unique_ptr<GgufFile> gguf, Parse(file->bytes(), path));
  gguf->file_ = std::move(file);
  return gguf;
}

std::vector<std::string_view> GgufFile::keys() const {
  std::vector<std::string_view> keys;
  keys.reserve(values_.size());
  for (const auto& [key, value] : values_) keys.push_back(key);
  return keys;
}

const GgufTensor* GgufFile::FindTensor(std::string_view name) const {
  const auto found = tensor_index_.find(name);
  return found == tensor_index_.end() ? nullptr : &tensors_[found->second];
}

absl::Status GgufFile::WrongType(std::string_view key, const Value& value,
                                 std::string_view wanted) const {
  std::string found(GgufTypeName(value.type));
  if (value.type == GgufType::kArray) {
    absl::StrAppend(&found, " of ", std::string(GgufTypeName(value.element)));
  }
  return absl::InvalidArgumentError(absl::StrCat(name_, ": metadata ", Quoted(key), " is ", found,
                                                 "; ", std::string(wanted), " is expected"));
}

absl::StatusOr<const GgufFile::Value*> GgufFile::Scalar(std::string_view key) const {
  const auto found = values_.find(key);
  if (found == values_.end()) {
    return absl::NotFoundError(absl::StrCat(name_, ": metadata ", Quoted(key), " is missing"));
  }
  if (found->second.type == GgufType::kArray)
    return WrongType(key, found->second, "a single value");
  return &found->second;
}

absl::StatusOr<const GgufFile::Value*> GgufFile::Array(std::string_view key) const {
  const auto found = values_.find(key);
  if (found == values_.end()) {
    return absl::NotFoundError(absl::StrCat(name_, ": metadata ", Quoted(key), " is missing"));
  }
  if (found->second.type != GgufType::kArray) return WrongType(key, found->second, "an array");
  return &found->second;
}

absl::StatusOr<int64_t> GgufFile::IntAt(std::string_view key, const Value& value,
                                        uint64_t index) const {
  if (!IsInteger(value.element)) return WrongType(key, value, "an integer");
  const std::optional<int64_t> number = LoadInt(value.element, value.raw, index);
  if (!number) {
    return absl::InvalidArgumentError(absl::StrCat(name_, ": metadata ", Quoted(key),
                                                   " is too large for a signed 64-bit integer"));
  }
  return *number;
}

absl::StatusOr<std::string_view> GgufFile::GetString(std::string_view key) const {
  LIFT_ASSIGN_OR_RETURN(const Value* value, Scalar(key));
  if (value->type != GgufType::kString) return WrongType(key, *value, "a string");
  std::string_view text;
  ByteReader reader(value->raw);
  LIFT_CHECK(reader.ReadString(text));
  return text;
}

absl::StatusOr<int64_t> GgufFile::GetInt(std::string_view key) const {
  LIFT_ASSIGN_OR_RETURN(const Value* value, Scalar(key));
  return IntAt(key, *value, 0);
}

absl::StatusOr<double> GgufFile::GetFloat(std::string_view key) const {
  LIFT_ASSIGN_OR_RETURN(const Value* value, Scalar(key));
  if (IsFloat(value->type)) return LoadFloat(value->type, value->raw, 0);
  if (!IsInteger(value->type)) return WrongType(key, *value, "a number");
  LIFT_ASSIGN_OR_RETURN(const int64_t number, IntAt(key, *value, 0));
  return static_cast<double>(number);
}

absl::StatusOr<bool> GgufFile::GetBool(std::string_view key) const {
  LIFT_ASSIGN_OR_RETURN(const Value* value, Scalar(key));
  if (value->type != GgufType::kBool) return WrongType(key, *value, "a boolean");
  return Load<uint8_t>(value->raw, 0) != 0;
}

absl::StatusOr<std::vector<std::string_view>> GgufFile::GetStrings(std::string_view key) const {
  LIFT_ASSIGN_OR_RETURN(const Value* value, Array(key));
  if (value->element != GgufType::kString) return WrongType(key, *value, "an array of strings");
  std::vector<std::string_view> strings(static_cast<size_t>(value->count));
  ByteReader reader(value->raw);
  for (std::string_view& text : strings) LIFT_CHECK(reader.ReadString(text));
  return strings;
}

absl::StatusOr<std::vector<int64_t>> GgufFile::GetInts(std::string_view key) const {
  LIFT_ASSIGN_OR_RETURN(const Value* value, Array(key));
  if (!IsInteger(value->element)) return WrongType(key, *value, "an array of integers");
  std::vector<int64_t> numbers(static_cast<size_t>(value->count));
  for (size_t i = 0; i < numbers.size(); ++i) {
    LIFT_ASSIGN_OR_RETURN(numbers[i], IntAt(key, *value, i));
  }
  return numbers;
}

absl::StatusOr<std::vector<float>> GgufFile::GetFloats(std::string_view key) const {
  LIFT_ASSIGN_OR_RETURN(const Value* value, Array(key));
  if (!IsFloat(value->element)) return WrongType(key, *value, "an array of floats");
  std::vector<float> numbers(static_cast<size_t>(value->count));
  for (size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = static_cast<float>(LoadFloat(value->element, value->raw, i));
  }
  return numbers;
}

absl::StatusOr<std::string_view> GgufFile::GetString(std::string_view key,
                                                     std::string_view absent) const {
  return OrAbsent(GetString(key), absent);
}
absl::StatusOr<int64_t> GgufFile::GetInt(std::string_view key, int64_t absent) const {
  return OrAbsent(GetInt(key), absent);
}
absl::StatusOr<double> GgufFile::GetFloat(std::string_view key, double absent) const {
  return OrAbsent(GetFloat(key), absent);
}
absl::StatusOr<bool> GgufFile::GetBool(std::string_view key, bool absent) const {
  return OrAbsent(GetBool(key), absent);
}

}  // namespace lift
