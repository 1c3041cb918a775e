// GGUF v2 and v3, little-endian: metadata and tensors of one mapped file. Byte diagram in
// README.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/dtype.h"
#include "kernels/base/mapped_file.h"
#include "kernels/base/status.h"

namespace lift {

// Types of metadata values, numbered as in the file.
enum class GgufType : uint32_t {
  kUint8 = 0,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64,
};
std::string_view GgufTypeName(GgufType type);  // "uint32", "string", ...

struct GgufTensor {
  std::string_view name;
  DType type = DType::kF32;
  std::vector<int64_t> dims;  // as stored: dims[0] runs fastest, i.e. [cols, rows] of a matrix
  std::span<const std::byte> bytes;  // borrowed
};

// Everything is validated by Open/Parse; afterwards immutable and thread-safe. All views borrow
// from the file's bytes. The getters return NOT_FOUND for an absent key and INVALID_ARGUMENT for
// one of another type, naming key and file.
class GgufFile {
 public:
  static absl::StatusOr<std::unique_ptr<GgufFile>> Open(const std::string& path);
  // Borrows `bytes`, which must outlive the result. `name` is for messages.
  static absl::StatusOr<std::unique_ptr<GgufFile>> Parse(std::span<const std::byte> bytes,
                                                         std::string name);

  const std::string& name() const { return name_; }
  uint32_t version() const { return version_; }
  std::span<const std::byte> file_bytes() const { return bytes_; }

  bool Has(std::string_view key) const { return values_.contains(key); }
  std::vector<std::string_view> keys() const;  // sorted

  absl::StatusOr<std::string_view> GetString(std::string_view key) const;
  absl::StatusOr<int64_t> GetInt(std::string_view key) const;   // any integer type
  absl::StatusOr<double> GetFloat(std::string_view key) const;  // any number
  absl::StatusOr<bool> GetBool(std::string_view key) const;
  absl::StatusOr<std::vector<std::string_view>> GetStrings(std::string_view key) const;
  absl::StatusOr<std::vector<int64_t>> GetInts(std::string_view key) const;  // any integer type
  absl::StatusOr<std::vector<float>> GetFloats(std::string_view key) const;  // f32 or f64
  // As above, with a value for absent keys; a key of another type is still an error.
  absl::StatusOr<std::string_view> GetString(std::string_view key, std::string_view absent) const;
  absl::StatusOr<int64_t> GetInt(std::string_view key, int64_t absent) const;
  absl::StatusOr<double> GetFloat(std::string_view key, double absent) const;
  absl::StatusOr<bool> GetBool(std::string_view key, bool absent) const;

  std::span<const GgufTensor> tensors() const { return tensors_; }
  const GgufTensor* FindTensor(std::string_view name) const;  // null if absent

 private:
  friend class GgufParser;
  // A value still in its stored form: `raw` holds `count` elements of `element` (count 1 for a
  // scalar).
  struct Value {
    GgufType type = GgufType::kUint8;     // kArray for arrays
    GgufType element = GgufType::kUint8;  // = type for scalars
    uint64_t count = 1;
    std::span<const std::byte> raw;
  };
  GgufFile() = default;
  absl::StatusOr<const Value*> Scalar(std::string_view key) const;
  absl::StatusOr<const Value*> Array(std::string_view key) const;
  absl::Status WrongType(std::string_view key, const Value& value, std::string_view wanted) const;
  absl::StatusOr<int64_t> IntAt(std::string_view key, const Value& value, uint64_t index) const;

  std::string name_;
  std::shared_ptr<const MappedFile> file_;  // null after Parse
  std::span<const std::byte> bytes_;
  uint32_t version_ = 0;
  std::map<std::string, Value, std::less<>> values_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string_view, size_t> tensor_index_;
};

}  // namespace lift
