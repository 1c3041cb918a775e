// JSON Schema (the common core of draft 2020-12) as a grammar of its instances.
#pragma once

#include <string_view>

#include "kernels/base/status.h"
#include "server/constraint/grammar.h"

namespace lift {

// Every text of the grammar is an instance; not every instance is a text: properties come in the
// schema's order, others only where additionalProperties allows them, and JsonText has one layout.
// INVALID_ARGUMENT with the keyword and its place for what is not supported.
absl::StatusOr<Grammar> ParseJsonSchema(std::string_view schema);

// The grammar of any JSON object.
Grammar AnyJsonObject();

}  // namespace lift
