// What can be read off JSON schemas without compiling them.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace lift {

using SchemaJson = nlohmann::ordered_json;  // properties keep their order

// What a reference "#/..." points at; null if there is nothing.
const SchemaJson* FindInDocument(const SchemaJson& document, const std::string& target);

bool RequiresProperty(const SchemaJson& schema, const std::string& name);

// No value satisfies both, as far as types and constants, also of required properties, tell.
bool Disjoint(const SchemaJson& document, const SchemaJson& first, const SchemaJson& second);

}  // namespace lift
