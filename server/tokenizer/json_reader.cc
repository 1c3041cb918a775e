#include "server/tokenizer/json_reader.h"

#include <limits>

#include "absl/strings/str_cat.h"

namespace lift {
namespace {

constexpr int kMaxDepth = 64;

bool TooDeep(const std::string& text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kMaxDepth) return true;
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return false;
}

absl::Status WrongType(const char* key, const char* wanted, const Json& value) {
  return absl::InvalidArgumentError(
      absl::StrCat("\"", key, "\" must be ", wanted, ", not ", value.type_name()));
}

}  // namespace

absl::StatusOr<Json> ParseJson(const std::string& text, const std::string& what, size_t max_bytes) {
  if (text.size() > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " has ", text.size(), " bytes; at most ", max_bytes, " are read"));
  }
  if (TooDeep(text))
    return absl::InvalidArgumentError(
        absl::StrCat(what, " nests deeper than ", kMaxDepth, " levels"));
  try {
    return Json::parse(text);
  } catch (const Json::parse_error& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " is not valid JSON near byte ", error.byte));
  } catch (const Json::exception&) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " is not valid JSON: a number is out of range"));
  }
}

const Json* JsonFind(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

absl::StatusOr<std::string> JsonString(const Json& object, const char* key, std::string otherwise) {
  const Json* value = JsonFind(object, key);
  if (value == nullptr) return otherwise;
  if (!value->is_string()) return WrongType(key, "a string", *value);
  return value->get<std::string>();
}

std::string JsonType(const Json& object) {
  const Json* type = JsonFind(object, "type");
  return type != nullptr && type->is_string() ? type->get<std::string>() : "(none)";
}

absl::StatusOr<bool> JsonBool(const Json& object, const char* key, bool otherwise) {
  const Json* value = JsonFind(object, key);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) return WrongType(key, "true or false", *value);
  return value->get<bool>();
}

absl::StatusOr<int32_t> JsonInt32(const Json& object, const char* key, int32_t otherwise) {
  const Json* value = JsonFind(object, key);
  if (value == nullptr) return otherwise;
  if (!value->is_number_integer()) return WrongType(key, "a whole number", *value);
  const bool high =
      value->is_number_unsigned() &&
      value->get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int32_t>::max());
  if (high || value->get<int64_t>() < -1) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", key, "\" is out of range: ", value->dump()));
  }
  return static_cast<int32_t>(value->get<int64_t>());
}

}  // namespace lift
