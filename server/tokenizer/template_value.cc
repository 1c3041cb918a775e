#include "server/tokenizer/template_value.h"

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"

namespace lift::jinja {
namespace {

// bool is a number in Python.
const int64_t* AsInteger(const Value& value, int64_t& storage) {
  if (const bool* b = value.boolean()) {
    storage = *b ? 1 : 0;
    return &storage;
  }
  return value.integer();
}

void AddWeight(uint64_t more, Value& to) {
  to.weight = static_cast<uint32_t>(std::min<uint64_t>(to.weight + more, UINT32_MAX));
}

void AddPart(const Value& part, Value& whole) {
  AddWeight(uint64_t{part.weight} + sizeof(Value), whole);
  whole.depth = std::max(whole.depth, part.depth + 1);
}

void AppendJsonText(const std::string& text, std::string& out) {
  out += '"';
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          char escape[8];
          std::snprintf(escape, sizeof(escape), "\\u%04x", c);
          out += escape;
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

void NewLine(int64_t indent, int depth, std::string& out) {
  if (indent < 0) return;
  out += '\n';
  out.append(static_cast<size_t>(indent) * static_cast<size_t>(depth), ' ');
}

absl::Status AppendJson(const Value& value, int64_t indent, int depth, std::string& out) {
  const char* comma = indent < 0 ? ", " : ",";
  if (value.none()) {
    out += "null";
  } else if (const bool* b = value.boolean()) {
    out += *b ? "true" : "false";
  } else if (const int64_t* i = value.integer()) {
    absl::StrAppend(&out, *i);
  } else if (const std::string* text = value.text()) {
    AppendJsonText(*text, out);
  } else if (const List* list = value.list()) {
    out += '[';
    for (size_t k = 0; k < list->size(); ++k) {
      if (k > 0) out += comma;
      NewLine(indent, depth + 1, out);
      LIFT_RETURN_IF_ERROR(AppendJson((*list)[k], indent, depth + 1, out));
    }
    if (!list->empty()) NewLine(indent, depth, out);
    out += ']';
  } else if (const Dict* dict = value.dict()) {
    out += '{';
    for (size_t k = 0; k < dict->size(); ++k) {
      if (k > 0) out += comma;
      NewLine(indent, depth + 1, out);
      AppendJsonText((*dict)[k].first, out);
      out += ": ";
      LIFT_RETURN_IF_ERROR(AppendJson((*dict)[k].second, indent, depth + 1, out));
    }
    if (!dict->empty()) NewLine(indent, depth, out);
    out += '}';
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("a value of type ", TypeName(value), " has no JSON form"));
  }
  return absl::OkStatus();
}

std::string ReprText(const std::string& text) {
  const char quote =
      text.find('\'') != std::string::npos && text.find('"') == std::string::npos ? '"' : '\'';
  std::string out(1, quote);
  for (const char c : text) {
    if (c == quote || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      char escape[8];
      std::snprintf(escape, sizeof(escape), "\\x%02x", static_cast<unsigned char>(c));
      out += escape;
    } else {
      out += c;
    }
  }
  return out + quote;
}

}  // namespace

Value::Value(std::string s) {
  AddWeight(s.size(), *this);
  v = std::make_shared<const std::string>(std::move(s));
}

Value::Value(List l) {
  for (const Value& item : l) AddPart(item, *this);
  v = std::make_shared<const List>(std::move(l));
}

Value::Value(Dict d) {
  for (const auto& [key, item] : d) {
    AddWeight(key.size(), *this);
    AddPart(item, *this);
  }
  v = std::make_shared<const Dict>(std::move(d));
}

bool Truthy(const Value& value) {
  if (value.undefined() || value.none()) return false;
  if (const bool* b = value.boolean()) return *b;
  if (const int64_t* i = value.integer()) return *i != 0;
  if (const std::string* text = value.text()) return !text->empty();
  if (const List* list = value.list()) return !list->empty();
  if (const Dict* dict = value.dict()) return !dict->empty();
  return true;
}

bool Equal(const Value& a, const Value& b) {
  int64_t x = 0, y = 0;
  const int64_t *i = AsInteger(a, x), *j = AsInteger(b, y);
  if (i != nullptr && j != nullptr) return *i == *j;
  if (a.v.index() != b.v.index()) return false;
  if (a.text() != nullptr) return *a.text() == *b.text();
  if (a.ns() != nullptr) return a.ns()->index == b.ns()->index;
  if (const List* list = a.list()) {
    return list == b.list() ||
           std::equal(list->begin(), list->end(), b.list()->begin(), b.list()->end(), Equal);
  }
  if (const Dict* dict = a.dict()) {
    if (dict == b.dict()) return true;
    return dict->size() == b.dict()->size() &&
           std::all_of(dict->begin(), dict->end(), [&](const auto& entry) {
             const Value* other = Find(*b.dict(), entry.first);
             return other != nullptr && Equal(entry.second, *other);
           });
  }
  return true;  // both none or both undefined
}

absl::StatusOr<int> Compare(const Value& a, const Value& b) {
  int64_t x = 0, y = 0;
  const int64_t *i = AsInteger(a, x), *j = AsInteger(b, y);
  if (i != nullptr && j != nullptr) return *i < *j ? -1 : *i > *j;
  if (a.text() != nullptr && b.text() != nullptr) {
    const int order = a.text()->compare(*b.text());  // UTF-8 keeps the order of code points
    return order < 0 ? -1 : order > 0;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("cannot order ", TypeName(a), " and ", TypeName(b)));
}

const Value* Find(const Dict& dict, std::string_view key) {
  for (const auto& [name, value] : dict) {
    if (name == key) return &value;
  }
  return nullptr;
}

std::string TypeName(const Value& value) {
  static constexpr const char* kNames[] = {"undefined", "none", "bool",      "int",     "str",
                                           "list",      "dict", "namespace", "function"};
  return kNames[value.v.index()];
}

std::string Str(const Value& value) {
  if (value.undefined()) return "";
  if (value.text() != nullptr) return *value.text();
  return Repr(value);
}

std::string Repr(const Value& value) {
  if (value.undefined()) return "Undefined";
  if (value.none()) return "None";
  if (const bool* b = value.boolean()) return *b ? "True" : "False";
  if (const int64_t* i = value.integer()) return absl::StrCat(*i);
  if (const std::string* text = value.text()) return ReprText(*text);
  std::string out;
  if (const List* list = value.list()) {
    for (const Value& item : *list) absl::StrAppend(&out, out.empty() ? "" : ", ", Repr(item));
    return absl::StrCat("[", out, "]");
  }
  if (const Dict* dict = value.dict()) {
    for (const auto& [key, item] : *dict)
      absl::StrAppend(&out, out.empty() ? "" : ", ", ReprText(key), ": ", Repr(item));
    return absl::StrCat("{", out, "}");
  }
  return value.ns() != nullptr ? "<Namespace>" : "<function>";
}

absl::StatusOr<std::string> ToJson(const Value& value, int64_t indent) {
  std::string out;
  LIFT_RETURN_IF_ERROR(AppendJson(value, indent, 0, out));
  return out;
}

}  // namespace lift::jinja
