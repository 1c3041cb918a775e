// Untrusted JSON: bounded parsing and typed fields whose errors name file and field.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/status.h"

namespace lift {

// An object at the top, at most 64 levels deep, no key twice in one object, valid UTF-8;
// INVALID_ARGUMENT otherwise. `source` is what messages call the text.
absl::StatusOr<nlohmann::json> ParseJsonObject(std::string_view text, const std::string& source);

// The file's whole text; INVALID_ARGUMENT above `max_bytes`.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t max_bytes);

// Typed access to one object's fields; borrows it. A field that is null counts as absent. Without
// `absent`, an absent field is INVALID_ARGUMENT.
class JsonFields {
 public:
  JsonFields(const nlohmann::json& object, std::string source)
      : object_(object), source_(std::move(source)) {}

  bool Has(const char* key) const;
  absl::StatusOr<int64_t> Int(const char* key) const;  // also 8192.0
  absl::StatusOr<double> Number(const char* key) const;
  absl::StatusOr<bool> Bool(const char* key) const;
  absl::StatusOr<std::string> String(const char* key) const;
  absl::StatusOr<int64_t> Int(const char* key, int64_t absent) const;
  absl::StatusOr<double> Number(const char* key, double absent) const;
  absl::StatusOr<bool> Bool(const char* key, bool absent) const;
  absl::StatusOr<std::string> String(const char* key, const std::string& absent) const;
  // An integer or a list of them; absent is empty.
  absl::StatusOr<std::vector<int64_t>> IntOrInts(const char* key) const;
  // Nested object as fields of its own, called "source: key" in messages.
  absl::StatusOr<JsonFields> Object(const char* key) const;
  const nlohmann::json& at(const char* key) const { return object_.at(key); }
  const std::string& source() const { return source_; }

  absl::Status Wrong(const char* key, const char* wanted) const;

 private:
  absl::StatusOr<const nlohmann::json*> Find(const char* key) const;
  const nlohmann::json& object_;
  std::string source_;
};

}  // namespace lift
