// Reading untrusted JSON: every access is checked and every error names the place.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "kernels/base/status.h"

namespace lift {

using Json = nlohmann::json;

// INVALID_ARGUMENT for what is not JSON (lone surrogates and invalid UTF-8 included), is larger
// than `max_bytes` or nests deeper than 64 levels. `what` names the text in errors
// ("tokenizer.json").
absl::StatusOr<Json> ParseJson(const std::string& text, const std::string& what, size_t max_bytes);

// The member `key` of an object. Absent or null gives the default; a wrong type is
// INVALID_ARGUMENT.
absl::StatusOr<std::string> JsonString(const Json& object, const char* key, std::string otherwise);
absl::StatusOr<bool> JsonBool(const Json& object, const char* key, bool otherwise);
absl::StatusOr<int32_t> JsonInt32(const Json& object, const char* key, int32_t otherwise);

// The "type" of a component, "(none)" if it has none.
std::string JsonType(const Json& object);

// The member, or nullptr if `object` is not an object or has no such member or it is null.
const Json* JsonFind(const Json& object, const char* key);

}  // namespace lift
