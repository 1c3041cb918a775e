#include "server/constraint/json_schema.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/str_cat.h"
#include "server/constraint/json_text.h"
#include "server/constraint/limits.h"
#include "server/constraint/regex.h"
#include "server/constraint/schema_facts.h"

namespace lift {
namespace {

using json = SchemaJson;
using Names = std::set<std::string>;

constexpr int64_t kMaxWhole = 999'999'999'999'999;  // exact in a double
constexpr size_t kMaxProperties = 256;

// Say something about the value to people, not to validators.
const Names kAnnotations = {
    "title",   "description", "default",          "examples",       "$comment",
    "$schema", "deprecated",  "readOnly",         "writeOnly",      "$defs",
    "$id",     "definitions", "contentMediaType", "contentEncoding"};
const Names kStringKeywords = {"minLength", "maxLength", "pattern", "format"};
const Names kNumberKeywords = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"};
const Names kArrayKeywords = {"items", "prefixItems", "minItems", "maxItems"};
const Names kObjectKeywords = {"properties", "required", "additionalProperties"};
const Names kWholeKeywords = {"enum", "const", "anyOf", "oneOf", "allOf", "$ref"};

// The values that a schema's `format` means, as a regular expression of the string's content.
const std::map<std::string, const char*> kFormats = {
    {"date", "\\d{4}-(0[1-9]|1[0-2])-(0[1-9]|1\\d|2[0-8])"},
    {"time", "([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,6})?(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)"},
    {"date-time",
     "\\d{4}-(0[1-9]|1[0-2])-(0[1-9]|1\\d|2[0-8])T([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,6})?"
     "(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)"},
    {"uuid", "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"},
    {"ipv4", "((25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)\\.){3}(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"},
    {"email", "[A-Za-z0-9]{1,32}(\\.[A-Za-z0-9]{1,32})?@[a-z0-9]{1,32}(\\.[a-z]{2,12}){1,2}"}};

bool HasAny(const json& schema, const Names& names) {
  return std::any_of(names.begin(), names.end(),
                     [&](const std::string& name) { return schema.contains(name); });
}

bool IsOfType(const json& value, const std::string& type) {
  if (type == "null") return value.is_null();
  if (type == "boolean") return value.is_boolean();
  if (type == "string") return value.is_string();
  if (type == "array") return value.is_array();
  if (type == "object") return value.is_object();
  if (type == "number") return value.is_number();
  return value.is_number_integer() ||
         (value.is_number() && std::trunc(value.get<double>()) == value.get<double>());
}

class SchemaCompiler {
 public:
  explicit SchemaCompiler(json root) : root_(std::move(root)), text_(grammar_) {}

  absl::StatusOr<Grammar> Run() {
    const int rule = grammar_.AddRule("root");
    LIFT_ASSIGN_OR_RETURN(const int node, Any(root_, "#"));
    grammar_.rules[static_cast<size_t>(rule)].node = node;
    return std::move(grammar_);
  }

 private:
  using Node = absl::StatusOr<int>;

  template <class... Parts>
  static absl::Status Wrong(const std::string& at, const Parts&... parts) {
    return absl::InvalidArgumentError(absl::StrCat("at ", at, ": ", parts...));
  }

  // Everything below takes a (sub)schema and the place it stands at.
  Node Any(const json& schema, const std::string& at) {
    if (schema.is_boolean()) return schema.get<bool>() ? text_.AnyValue() : grammar_.Class({});
    if (!schema.is_object()) return Wrong(at, "a schema is an object or a boolean");
    if (++nesting_ > kMaxNesting) return Wrong(at, "schemas nest deeper than ", kMaxNesting);
    LIFT_RETURN_IF_ERROR(CheckKeywords(schema, at));
    LIFT_ASSIGN_OR_RETURN(const int node,
                          HasAny(schema, kWholeKeywords) ? Whole(schema, at) : Typed(schema, at));
    --nesting_;
    return node;
  }

  static absl::Status CheckKeywords(const json& schema, const std::string& at) {
    for (const auto& [key, value] : schema.items()) {
      if (key == "type" || kAnnotations.contains(key) || kStringKeywords.contains(key) ||
          kNumberKeywords.contains(key) || kArrayKeywords.contains(key) ||
          kObjectKeywords.contains(key) || kWholeKeywords.contains(key)) {
        continue;
      }
      return Wrong(at, "the keyword '", key, "' is not supported");
    }
    return absl::OkStatus();
  }

  // Keywords that describe the value as a whole stand alone, but for `type` beside enum and const.
  Node Whole(const json& schema, const std::string& at) {
    std::string keyword;
    for (const auto& [key, value] : schema.items()) {
      if (kAnnotations.contains(key)) continue;
      if (kWholeKeywords.contains(key) && keyword.empty()) {
        keyword = key;
        continue;
      }
      const bool fits = key == "type" && (schema.contains("enum") || schema.contains("const"));
      const bool both = kWholeKeywords.contains(key) && key != keyword;
      if (fits && !both) continue;
      return Wrong(at, "'", key, "' beside '",
                   schema.contains("$ref") ? "$ref" : OtherWhole(schema, key),
                   "' is not supported");
    }
    const json& value = schema.at(keyword);
    if (keyword == "$ref") return Reference(value, at);
    if (keyword == "const") return Values(schema, json::array({value}), at);
    if (!value.is_array() || value.empty())
      return Wrong(at, "'", keyword, "' must be a list of at least one");
    if (keyword == "enum") return Values(schema, value, at);
    if (keyword == "allOf" && value.size() > 1) {
      return Wrong(at, "'allOf' of more than one schema is not supported; merge them");
    }
    std::vector<int> ways;
    for (size_t i = 0; i < value.size(); ++i) {
      for (size_t j = 0; keyword == "oneOf" && j < i; ++j) {
        if (!Disjoint(root_, value[i], value[j])) {
          return Wrong(at,
                       "'oneOf' of schemas that one value may both satisfy is not supported; use "
                       "anyOf, or tell them apart by type or by a required property's const");
        }
      }
      LIFT_ASSIGN_OR_RETURN(const int way, Any(value[i], absl::StrCat(at, "/", keyword, "/", i)));
      ways.push_back(way);
    }
    return grammar_.Choice(std::move(ways));
  }

  static std::string OtherWhole(const json& schema, const std::string& not_this) {
    for (const std::string& name : kWholeKeywords) {
      if (name != not_this && schema.contains(name)) return name;
    }
    return "type";
  }

  // References are rules, so they may recur.
  Node Reference(const json& value, const std::string& at) {
    if (!value.is_string()) return Wrong(at, "'$ref' must be a string");
    const std::string target = value.get<std::string>();
    if (target != "#" && !target.starts_with("#/")) {
      return Wrong(at, "'$ref' to '", target, "' is not supported; only #/... is");
    }
    const auto [it, added] = references_.try_emplace(target, -1);
    if (!added) return grammar_.Call(it->second);
    const json* schema = FindInDocument(root_, target);
    if (schema == nullptr) return Wrong(at, "'$ref' to '", target, "' finds nothing");
    const int rule = grammar_.AddRule(target);
    it->second = rule;
    LIFT_ASSIGN_OR_RETURN(const int node, Any(*schema, target));
    grammar_.rules[static_cast<size_t>(rule)].node = node;
    return grammar_.Call(rule);
  }

  Node Values(const json& schema, const json& values, const std::string& at) {
    LIFT_ASSIGN_OR_RETURN(const std::vector<std::string> types, Types(schema, at));
    std::vector<int> ways;
    for (const json& value : values) {
      const bool allowed = std::any_of(types.begin(), types.end(),
                                       [&](const std::string& t) { return IsOfType(value, t); });
      if (!schema.contains("type") || allowed) ways.push_back(text_.Literal(value.dump()));
    }
    if (ways.empty()) return grammar_.Class({});
    return grammar_.Choice(std::move(ways));
  }

  // The types a schema names, or else those its keywords are about, or else all.
  static absl::StatusOr<std::vector<std::string>> Types(const json& schema, const std::string& at) {
    static const std::vector<std::string> kAll = {"object",  "array",   "string", "number",
                                                  "integer", "boolean", "null"};
    std::vector<std::string> types;
    if (schema.contains("type")) {
      const json list = schema["type"].is_array() ? schema["type"] : json::array({schema["type"]});
      for (const json& type : list) {
        const std::string name = type.is_string() ? type.get<std::string>() : "";
        if (std::find(kAll.begin(), kAll.end(), name) == kAll.end()) {
          return Wrong(at,
                       "'type' must be one or a list of null, boolean, integer, number, string, "
                       "array, object");
        }
        types.push_back(name);
      }
      return types;
    }
    if (HasAny(schema, kObjectKeywords)) types.push_back("object");
    if (HasAny(schema, kArrayKeywords)) types.push_back("array");
    if (HasAny(schema, kStringKeywords)) types.push_back("string");
    if (HasAny(schema, kNumberKeywords)) types.push_back("number");
    return types.empty() ? kAll : types;
  }

  Node Typed(const json& schema, const std::string& at) {
    bool bare = !schema.contains("type");
    for (const Names* names :
         {&kObjectKeywords, &kArrayKeywords, &kStringKeywords, &kNumberKeywords}) {
      bare = bare && !HasAny(schema, *names);
    }
    if (bare) return text_.AnyValue();
    LIFT_ASSIGN_OR_RETURN(const std::vector<std::string> types, Types(schema, at));
    std::vector<int> ways;
    for (const std::string& type : types) {
      Node way = 0;
      if (type == "object") way = Object(schema, at);
      if (type == "array") way = Array(schema, at);
      if (type == "string") way = String(schema, at);
      if (type == "number" || type == "integer") way = Number(schema, type == "integer", at);
      if (type == "boolean") way = text_.Boolean();
      if (type == "null") way = text_.Literal("null");
      if (!way.ok()) return way.status();
      ways.push_back(*way);
    }
    if (ways.empty()) return grammar_.Class({});
    return grammar_.Choice(std::move(ways));
  }

  static absl::StatusOr<int> Count(const json& schema, const char* keyword, int fallback,
                                   const std::string& at) {
    if (!schema.contains(keyword)) return fallback;
    const json& value = schema[keyword];
    if (!IsOfType(value, "integer") || value.get<double>() < 0 ||
        value.get<double>() > kMaxRepetitions) {
      return Wrong(at, "'", keyword, "' must be a whole number from 0 to ", kMaxRepetitions);
    }
    return static_cast<int>(value.get<double>());
  }

  Node String(const json& schema, const std::string& at) {
    LIFT_ASSIGN_OR_RETURN(const int least, Count(schema, "minLength", 0, at));
    LIFT_ASSIGN_OR_RETURN(const int most, Count(schema, "maxLength", kUnlimited, at));
    const bool length = schema.contains("minLength") || schema.contains("maxLength");
    const bool pattern = schema.contains("pattern"), format = schema.contains("format");
    if (length + pattern + format > 1) {
      return Wrong(at, "only one of 'minLength'/'maxLength', 'pattern' and 'format' is supported");
    }
    if (length && most != kUnlimited && least > most) return grammar_.Class({});
    if (!pattern && !format) return text_.String(least, most);
    const std::string keyword = pattern ? "pattern" : "format";
    if (!schema[keyword].is_string()) return Wrong(at, "'", keyword, "' must be a string");
    std::string expression = schema[keyword].get<std::string>();
    if (format) {
      const auto known = kFormats.find(expression);
      if (known == kFormats.end()) {
        return Wrong(at, "the format '", expression,
                     "' is not supported; date, time, date-time, uuid, ipv4 and email are");
      }
      expression = known->second;
    }
    const RegexOptions options{
        .characters = [this](Grammar&, const CodePoints& set) { return text_.Character(set); },
        .search = pattern};
    auto content = ParseRegex(expression, options, grammar_);
    if (!content.ok()) return Wrong(at, "'pattern' ", content.status().message());
    return text_.Quoted(*content);
  }

  Node Number(const json& schema, bool whole, const std::string& at) {
    NumberBounds bounds;
    for (const std::string& keyword : kNumberKeywords) {
      if (!schema.contains(keyword)) continue;
      const json& value = schema[keyword];
      if (!IsOfType(value, "integer") ||
          std::abs(value.get<double>()) > static_cast<double>(kMaxWhole)) {
        return Wrong(at, "'", keyword, "' is supported for whole numbers of up to 15 digits");
      }
      const auto bound = static_cast<int64_t>(value.get<double>());
      const bool excluded = keyword.starts_with("exclusive");
      if (keyword.find("inimum") != std::string::npos) {
        if (bounds.least && (*bounds.least > bound || (*bounds.least == bound && !excluded)))
          continue;
        bounds.least = bound;
        bounds.above_least = excluded;
      } else {
        if (bounds.most && (*bounds.most < bound || (*bounds.most == bound && !excluded))) continue;
        bounds.most = bound;
        bounds.below_most = excluded;
      }
    }
    return whole ? text_.Integer(bounds) : text_.Number(bounds);
  }

  Node Array(const json& schema, const std::string& at) {
    LIFT_ASSIGN_OR_RETURN(const int least, Count(schema, "minItems", 0, at));
    LIFT_ASSIGN_OR_RETURN(int most, Count(schema, "maxItems", kUnlimited, at));
    std::vector<int> first;
    if (schema.contains("prefixItems")) {
      const json& list = schema["prefixItems"];
      if (!list.is_array()) return Wrong(at, "'prefixItems' must be a list");
      for (size_t i = 0; i < list.size(); ++i) {
        LIFT_ASSIGN_OR_RETURN(const int item, Any(list[i], absl::StrCat(at, "/prefixItems/", i)));
        first.push_back(item);
      }
    }
    const auto known = static_cast<int>(first.size());
    const bool open = schema.contains("items") || first.empty() || least > known;
    if (!open) most = most == kUnlimited ? known : std::min(most, known);
    if (most != kUnlimited && least > most) return grammar_.Class({});
    int item = -1;
    if (schema.contains("items")) {
      LIFT_ASSIGN_OR_RETURN(item, Any(schema["items"], absl::StrCat(at, "/items")));
    } else if (open) {
      if (first.empty() && least == 0 && most == kUnlimited) return text_.AnyArray();
      item = text_.AnyValue();
    }
    return grammar_.Sequence(
        {grammar_.Text("["), Elements(first, item, least, most), grammar_.Text("]")});
  }

  // Items of an array: `first` in order, then `item`s.
  int Elements(const std::vector<int>& first, int item, int least, int most) {
    const auto known = static_cast<int>(first.size());
    const auto within = [&](int count) { return most == kUnlimited || count <= most; };
    int rest = grammar_.Text("");
    if (item >= 0 && within(known + 1)) {
      const int repeated = grammar_.Sequence({text_.Comma(), item});
      const int left = most == kUnlimited ? kUnlimited : most - std::max(known, 1);
      rest = grammar_.Repeat(repeated, std::max(least - std::max(known, 1), 0), left);
      if (known == 0) rest = grammar_.Sequence({item, rest});
      if (known == 0 && least == 0) rest = grammar_.Optional(rest);
    }
    for (int i = known - 1; i >= 0; --i) {
      if (!within(i + 1)) continue;
      std::vector<int> parts = {first[static_cast<size_t>(i)], rest};
      if (i > 0) parts.insert(parts.begin(), text_.Comma());
      rest = grammar_.Sequence(std::move(parts));
      if (i >= least) rest = grammar_.Optional(rest);
    }
    return rest;
  }

  struct Property {
    int pair = -1;  // "name": value
    bool required = false;
  };

  Node Object(const json& schema, const std::string& at) {
    if (!HasAny(schema, kObjectKeywords)) return text_.AnyObject();
    std::vector<std::string> names;
    LIFT_ASSIGN_OR_RETURN(const std::vector<Property> properties, Properties(schema, at, names));
    const bool closed = schema.contains("properties") || schema.contains("required");
    const json others =
        schema.contains("additionalProperties") ? schema["additionalProperties"] : json(!closed);
    int more = -1;  // pairs of other names
    if (others != json(false)) {
      LIFT_ASSIGN_OR_RETURN(const int value,
                            Any(others, absl::StrCat(at, "/additionalProperties")));
      const int key = names.empty() ? text_.String(0, kUnlimited) : text_.StringOtherThan(names);
      more = grammar_.Sequence({key, text_.Colon(), value});
    }
    return grammar_.Sequence({grammar_.Text("{"), Members(properties, more), grammar_.Text("}")});
  }

  absl::StatusOr<std::vector<Property>> Properties(const json& schema, const std::string& at,
                                                   std::vector<std::string>& names) {
    json all = json::object();
    if (schema.contains("properties")) all = schema["properties"];
    if (!all.is_object()) return Wrong(at, "'properties' must be an object");
    if (schema.contains("required")) {
      if (!schema["required"].is_array()) return Wrong(at, "'required' must be a list");
      for (const json& name : schema["required"]) {
        if (!name.is_string()) return Wrong(at, "'required' must be a list of strings");
        const json others =
            schema.contains("additionalProperties") ? schema["additionalProperties"] : json(true);
        if (!all.contains(name.get<std::string>())) all[name.get<std::string>()] = others;
      }
    }
    if (all.size() > kMaxProperties) return Wrong(at, "more than ", kMaxProperties, " properties");
    std::vector<Property> properties;
    for (const auto& [name, value] : all.items()) {
      LIFT_ASSIGN_OR_RETURN(const int node, Any(value, absl::StrCat(at, "/properties/", name)));
      const int pair = grammar_.Sequence({text_.Literal(json(name).dump()), text_.Colon(), node});
      properties.push_back({grammar_.Call(grammar_.AddRule(absl::StrCat(at, "/", name), pair)),
                            RequiresProperty(schema, name)});
      names.push_back(name);
    }
    return properties;
  }

  // Rules for what may follow when something stands before (`after`) and when nothing does yet.
  int Members(const std::vector<Property>& properties, int more) {
    int after = grammar_.Text(""), start = grammar_.Text("");
    if (more >= 0) {
      after = grammar_.Repeat(grammar_.Sequence({text_.Comma(), more}), 0, kUnlimited);
      start = grammar_.Optional(grammar_.Sequence({more, after}));
    }
    for (size_t i = properties.size(); i-- > 0;) {
      const Property& property = properties[i];
      const int then = grammar_.Call(grammar_.AddRule("members", after));
      const int given = grammar_.Sequence({text_.Comma(), property.pair, then});
      const int begins = grammar_.Sequence({property.pair, then});
      after = property.required ? given : grammar_.Choice({given, then});
      if (!property.required) {
        const int skipped = grammar_.Call(grammar_.AddRule("members", start));
        start = grammar_.Choice({begins, skipped});
      } else {
        start = begins;
      }
    }
    return start;
  }

  const json root_;
  Grammar grammar_;
  JsonText text_;
  std::map<std::string, int> references_;
  int nesting_ = 0;
};

}  // namespace

absl::StatusOr<Grammar> ParseJsonSchema(std::string_view schema) {
  // A cap on depth comes before the parser's own recursion has anything to do.
  int depth = 0;
  for (const char c : schema) {
    depth += c == '{' || c == '[' ? 1 : c == '}' || c == ']' ? -1 : 0;
    if (depth > 4 * kMaxNesting) return absl::InvalidArgumentError("it nests too deeply");
  }
  json document = json::parse(schema, nullptr, /*allow_exceptions=*/false);
  if (document.is_discarded()) return absl::InvalidArgumentError("it is not JSON");
  return SchemaCompiler(std::move(document)).Run();
}

Grammar AnyJsonObject() {
  Grammar grammar;
  JsonText text(grammar);
  const int root = grammar.AddRule("root");
  const int object = text.AnyObject();
  grammar.rules[static_cast<size_t>(root)].node = object;
  return grammar;
}

}  // namespace lift
