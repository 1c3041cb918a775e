// Containers, and the methods of texts and dictionaries.
#include <algorithm>
#include <array>
#include <functional>
#include <map>

#include "absl/strings/str_cat.h"
#include "server/tokenizer/template_builtins.h"
#include "server/tokenizer/template_text.h"

namespace lift::jinja {
namespace {

using Method = std::function<absl::StatusOr<Value>(const std::string& text,
                                                   const Arguments& arguments, Budget& budget)>;

absl::StatusOr<std::string> TextArgument(const Arguments& arguments, size_t position,
                                         std::string_view keyword) {
  const Value value = arguments.Get(position, keyword);
  if (value.text() == nullptr)
    return absl::InvalidArgumentError(absl::StrCat("argument ", position + 1, " must be a string"));
  return *value.text();
}

absl::StatusOr<Value> StripWith(Side side, const std::string& text, const Arguments& arguments) {
  const Value chars = arguments.Get(0, "chars");
  if (chars.undefined() || chars.none()) return Value(std::string(Strip(text, side)));
  if (chars.text() == nullptr) return absl::InvalidArgumentError("strip takes a string");
  return Value(std::string(Strip(text, side, *chars.text())));
}

// startswith / endswith: a string or a tuple of them.
absl::StatusOr<Value> AnyAffix(const std::string& text, const Arguments& arguments, bool prefix) {
  const Value given = arguments.Get(0, "prefix");
  const List options = given.list() != nullptr ? *given.list() : List{given};
  for (const Value& option : options) {
    if (option.text() == nullptr)
      return absl::InvalidArgumentError(
          "startswith and endswith take a string or a tuple of strings");
    if (prefix ? text.starts_with(*option.text()) : text.ends_with(*option.text()))
      return Value(true);
  }
  return Value(false);
}

absl::StatusOr<Value> SplitText(const std::string& text, const Arguments& arguments,
                                Budget& budget) {
  const Value separator = arguments.Get(0, "sep"), limit = arguments.Get(1, "maxsplit");
  const int64_t most = limit.integer() != nullptr ? *limit.integer() : -1;
  if (separator.text() != nullptr && separator.text()->empty())
    return absl::InvalidArgumentError("empty separator");
  LIFT_RETURN_IF_ERROR(budget.Take(text.size() * 32));
  std::vector<std::string> parts = separator.text() != nullptr
                                       ? Split(text, *separator.text(), most)
                                       : Split(text, std::nullopt, most);
  return Value(List(parts.begin(), parts.end()));
}

absl::StatusOr<Value> FindText(const std::string& text, const Arguments& arguments, bool last) {
  LIFT_ASSIGN_OR_RETURN(const std::string needle, TextArgument(arguments, 0, "sub"));
  const size_t at = last ? text.rfind(needle) : text.find(needle);
  return at == std::string::npos ? Value(int64_t{-1})
                                 : Value(Length(std::string_view(text).substr(0, at)));
}

absl::StatusOr<Value> CountText(const std::string& text, const Arguments& arguments) {
  LIFT_ASSIGN_OR_RETURN(const std::string needle, TextArgument(arguments, 0, "sub"));
  if (needle.empty()) return Value(Length(text) + 1);
  int64_t count = 0;
  for (size_t at = text.find(needle); at != std::string::npos;
       at = text.find(needle, at + needle.size()))
    ++count;
  return Value(count);
}

const std::map<std::string_view, Method>& TextMethods() {
  using A = Arguments;
  static const std::map<std::string_view, Method> methods = {
      {"strip",
       [](const std::string& t, const A& a, Budget&) { return StripWith(Side::kBoth, t, a); }},
      {"lstrip",
       [](const std::string& t, const A& a, Budget&) { return StripWith(Side::kLeft, t, a); }},
      {"rstrip",
       [](const std::string& t, const A& a, Budget&) { return StripWith(Side::kRight, t, a); }},
      {"upper", [](const std::string& t, const A&, Budget&) { return Value(Upper(t)); }},
      {"lower", [](const std::string& t, const A&, Budget&) { return Value(Lower(t)); }},
      {"title", [](const std::string& t, const A&, Budget&) { return Value(Title(t)); }},
      {"capitalize", [](const std::string& t, const A&, Budget&) { return Value(Capitalize(t)); }},
      {"startswith",
       [](const std::string& t, const A& a, Budget&) { return AnyAffix(t, a, true); }},
      {"endswith", [](const std::string& t, const A& a, Budget&) { return AnyAffix(t, a, false); }},
      {"split", SplitText},
      {"splitlines",
       [](const std::string& t, const A&, Budget& b) -> absl::StatusOr<Value> {
         LIFT_RETURN_IF_ERROR(b.Take(t.size() * 32));
         const auto lines = SplitLines(t);
         return Value(List(lines.begin(), lines.end()));
       }},
      {"replace", [](const std::string& t, const A& a,
                     Budget& b) { return ApplyFilter("replace", Value(t), a, b); }},
      {"find", [](const std::string& t, const A& a, Budget&) { return FindText(t, a, false); }},
      {"rfind", [](const std::string& t, const A& a, Budget&) { return FindText(t, a, true); }},
      {"count", [](const std::string& t, const A& a, Budget&) { return CountText(t, a); }},
      {"join",
       [](const std::string& t, const A& a, Budget& b) {
         return ApplyFilter("join", a.Get(0, ""), {{Value(t)}, {}}, b);
       }},
  };
  return methods;
}

constexpr std::array<std::string_view, 4> kDictMethods = {"items", "keys", "values", "get"};

absl::StatusOr<Value> DictMethod(std::string_view name, const Dict& dict,
                                 const Arguments& arguments) {
  if (name == "get") {
    LIFT_ASSIGN_OR_RETURN(const std::string key, TextArgument(arguments, 0, "key"));
    const Value* value = Find(dict, key);
    if (value != nullptr) return *value;
    const Value otherwise = arguments.Get(1, "default");
    return otherwise.undefined() ? Value(None{}) : otherwise;
  }
  List out;
  for (const auto& [key, value] : dict) {
    if (name == "items") out.push_back(Value(List{Value(key), value}));
    if (name == "keys") out.push_back(Value(key));
    if (name == "values") out.push_back(value);
  }
  return Value(std::move(out));
}

// Python's index: negative ones count from the end. False if out of range.
bool ResolveIndex(int64_t& index, size_t size) {
  if (index < 0) index += static_cast<int64_t>(size);
  return index >= 0 && index < static_cast<int64_t>(size);
}

}  // namespace

Value Arguments::Get(size_t position, std::string_view keyword) const {
  if (position < positional.size()) return positional[position];
  for (const auto& [name, value] : keywords) {
    if (name == keyword) return value;
  }
  return Value();
}

bool IsMethod(std::string_view name) {
  return TextMethods().contains(name) ||
         std::find(kDictMethods.begin(), kDictMethods.end(), name) != kDictMethods.end();
}

absl::StatusOr<Value> CallMethod(std::string_view name, const Value& value,
                                 const Arguments& arguments, Budget& budget) {
  if (const std::string* text = value.text()) {
    LIFT_RETURN_IF_ERROR(budget.Take(text->size()));
    const auto method = TextMethods().find(name);
    if (method != TextMethods().end()) return method->second(*text, arguments, budget);
  }
  if (const Dict* dict = value.dict();
      dict != nullptr &&
      std::find(kDictMethods.begin(), kDictMethods.end(), name) != kDictMethods.end()) {
    LIFT_RETURN_IF_ERROR(budget.Take(dict->size() * 64));
    return DictMethod(name, *dict, arguments);
  }
  return absl::InvalidArgumentError(absl::StrCat("a value of type ", TypeName(value),
                                                 " has no method ", std::string(name), "()"));
}

absl::StatusOr<List> Iterate(const Value& value, Budget& budget) {
  if (value.undefined()) return List();
  LIFT_RETURN_IF_ERROR(budget.Take(value.list() != nullptr ? value.list()->size() : value.weight));
  if (const List* list = value.list()) return *list;
  List out;
  if (const Dict* dict = value.dict()) {
    for (const auto& [key, item] : *dict) out.push_back(Value(key));
    return out;
  }
  if (const std::string* text = value.text()) {
    LIFT_RETURN_IF_ERROR(budget.Take(text->size() * 64));
    for (const std::string_view c : Characters(*text)) out.push_back(Value(std::string(c)));
    return out;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("a value of type ", TypeName(value), " cannot be looped over"));
}

absl::StatusOr<bool> Contains(const Value& container, const Value& item, Budget& budget) {
  LIFT_RETURN_IF_ERROR(budget.Take(container.weight));
  if (container.undefined()) return false;
  if (const std::string* text = container.text()) {
    if (item.text() == nullptr)
      return absl::InvalidArgumentError(
          absl::StrCat("\"in\" a string needs a string, not ", TypeName(item)));
    return text->find(*item.text()) != std::string::npos;
  }
  if (const List* list = container.list()) {
    return std::any_of(list->begin(), list->end(),
                       [&](const Value& other) { return Equal(other, item); });
  }
  if (const Dict* dict = container.dict())
    return item.text() != nullptr && Find(*dict, *item.text()) != nullptr;
  return absl::InvalidArgumentError(absl::StrCat("\"in\" does not work on ", TypeName(container)));
}

absl::StatusOr<Value> GetItem(const Value& container, const Value& key) {
  const std::string name = Str(key);
  if (container.undefined())
    return absl::InvalidArgumentError(
        absl::StrCat("\"", std::get<Undefined>(container.v).name, "\" is undefined"));
  if (const Dict* dict = container.dict()) {
    const Value* value = key.text() == nullptr ? nullptr : Find(*dict, *key.text());
    return value != nullptr ? *value : Value(Undefined{name});
  }
  if (key.integer() == nullptr) return Value(Undefined{name});
  int64_t index = *key.integer();
  if (const List* list = container.list())
    return ResolveIndex(index, list->size()) ? (*list)[index] : Value(Undefined{name});
  if (const std::string* text = container.text()) {
    const auto characters = Characters(*text);
    return ResolveIndex(index, characters.size()) ? Value(std::string(characters[index]))
                                                  : Value(Undefined{name});
  }
  return Value(Undefined{name});
}

}  // namespace lift::jinja
