#include "server/constraint/schema_facts.h"

#include <algorithm>
#include <set>

namespace lift {
namespace {

using json = SchemaJson;
using Names = std::set<std::string>;

const json& Resolved(const json& document, const json& schema) {
  if (!schema.is_object() || !schema.contains("$ref") || !schema["$ref"].is_string()) return schema;
  const std::string target = schema["$ref"].get<std::string>();
  const json* found = target.starts_with("#/") ? FindInDocument(document, target) : nullptr;
  return found != nullptr ? *found : schema;
}
Names NamedTypes(const json& schema) {
  Names names;
  if (!schema.contains("type")) return names;
  const json list = schema["type"].is_array() ? schema["type"] : json::array({schema["type"]});
  for (const json& t : list) names.insert(t.is_string() ? t.get<std::string>() : "");
  if (names.contains("integer")) names.insert("number");
  return names;
}
// The list of all values a schema allows by const or enum, null if it does not say.
json Constants(const json& schema) {
  if (!schema.is_object()) return nullptr;
  if (schema.contains("const")) return json::array({schema["const"]});
  return schema.contains("enum") && schema["enum"].is_array() ? schema["enum"] : json(nullptr);
}
// In any order of members.
bool ApartValues(const json& a, const json& b) {
  const nlohmann::json xs = nlohmann::json::parse(a.dump()), ys = nlohmann::json::parse(b.dump());
  return std::none_of(xs.begin(), xs.end(), [&](const nlohmann::json& x) {
    return std::find(ys.begin(), ys.end(), x) != ys.end();
  });
}

}  // namespace

const json* FindInDocument(const json& document, const std::string& target) {
  try {
    const json::json_pointer pointer(target.substr(1));
    return document.contains(pointer) ? &document.at(pointer) : nullptr;
  } catch (const json::exception&) {
    return nullptr;
  }
}

bool RequiresProperty(const json& schema, const std::string& name) {
  if (!schema.contains("required") || !schema["required"].is_array()) return false;
  const json& required = schema["required"];
  return std::find(required.begin(), required.end(), json(name)) != required.end();
}

bool Disjoint(const json& document, const json& first, const json& second) {
  const json &a = Resolved(document, first), &b = Resolved(document, second);
  if (!a.is_object() || !b.is_object()) return false;
  const json in_a = Constants(a), in_b = Constants(b);
  if (!in_a.is_null() && !in_b.is_null()) return ApartValues(in_a, in_b);
  const Names ta = NamedTypes(a), tb = NamedTypes(b);
  if (!ta.empty() && !tb.empty() &&
      std::none_of(ta.begin(), ta.end(), [&](const std::string& t) { return tb.contains(t); })) {
    return true;
  }
  if (ta != Names{"object"} || tb != ta || !a.contains("properties") || !b.contains("properties") ||
      !a["properties"].is_object() || !b["properties"].is_object()) {
    return false;
  }
  for (const auto& [name, schema] : a["properties"].items()) {
    if (!RequiresProperty(a, name) || !RequiresProperty(b, name) || !b["properties"].contains(name))
      continue;
    const json of_a = Constants(schema), of_b = Constants(b["properties"][name]);
    if (!of_a.is_null() && !of_b.is_null() && ApartValues(of_a, of_b)) return true;
  }
  return false;
}

}  // namespace lift
