// Filters.
#include <algorithm>
#include <functional>
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/tokenizer/template_builtins.h"
#include "server/tokenizer/template_text.h"

namespace lift::jinja {
namespace {

using Result = absl::StatusOr<Value>;
using Filter = std::function<Result(const Value&, const Arguments&, Budget&)>;

constexpr int64_t kMaxIndent = 32;

Result Trim(const Value& value, const Arguments& arguments, Budget&) {
  const Value chars = arguments.Get(0, "chars");
  const std::string text = Str(value);
  if (chars.text() != nullptr) return Value(std::string(Strip(text, Side::kBoth, *chars.text())));
  return Value(std::string(Strip(text, Side::kBoth)));
}

Result LengthOf(const Value& value, const Arguments&, Budget&) {
  if (value.undefined()) return Value(int64_t{0});
  if (const std::string* text = value.text()) return Value(Length(*text));
  if (const List* list = value.list()) return Value(static_cast<int64_t>(list->size()));
  if (const Dict* dict = value.dict()) return Value(static_cast<int64_t>(dict->size()));
  return absl::InvalidArgumentError(
      absl::StrCat("a value of type ", TypeName(value), " has no length"));
}

Result Default(const Value& value, const Arguments& arguments, Budget&) {
  const bool replace = value.undefined() || (Truthy(arguments.Get(1, "boolean")) && !Truthy(value));
  if (!replace) return value;
  const Value otherwise = arguments.Get(0, "default_value");
  return otherwise.undefined() ? Value(std::string()) : otherwise;
}

Result Join(const Value& value, const Arguments& arguments, Budget& budget) {
  const std::string separator = Str(arguments.Get(0, "d"));
  const Value attribute = arguments.Get(1, "attribute");
  LIFT_ASSIGN_OR_RETURN(const List items, Iterate(value, budget));
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    Value item = items[i];
    if (!attribute.undefined()) {
      LIFT_ASSIGN_OR_RETURN(item, GetItem(item, attribute));
    }
    LIFT_RETURN_IF_ERROR(budget.Take(item.weight + separator.size()));
    if (i > 0) out += separator;
    out += Str(item);
  }
  return Value(std::move(out));
}

Result First(const Value& value, const Arguments&, Budget& budget) {
  LIFT_ASSIGN_OR_RETURN(const List items, Iterate(value, budget));
  return items.empty() ? Value(Undefined{"first item"}) : items.front();
}

Result Last(const Value& value, const Arguments&, Budget& budget) {
  LIFT_ASSIGN_OR_RETURN(const List items, Iterate(value, budget));
  return items.empty() ? Value(Undefined{"last item"}) : items.back();
}

Result ToInteger(const Value& value, const Arguments& arguments, Budget&) {
  if (value.integer() != nullptr) return value;
  if (value.boolean() != nullptr) return Value(int64_t{*value.boolean()});
  int64_t number = 0;
  if (value.text() != nullptr && absl::SimpleAtoi(*value.text(), &number)) return Value(number);
  const Value otherwise = arguments.Get(0, "default");
  return otherwise.undefined() ? Value(int64_t{0}) : otherwise;
}

Result ReplaceText(const Value& value, const Arguments& arguments, Budget& budget) {
  const std::string text = Str(value), from = Str(arguments.Get(0, "old")),
                    to = Str(arguments.Get(1, "new"));
  const Value count = arguments.Get(2, "count");
  const int64_t most = count.integer() != nullptr ? *count.integer() : -1;
  // Before anything is built: each replacement may add the whole of `to`.
  uint64_t places = 0;
  for (size_t at = text.find(from); !from.empty() && at != std::string::npos;
       at = text.find(from, at + from.size()))
    ++places;
  if (from.empty()) places = text.size() + 1;
  LIFT_RETURN_IF_ERROR(budget.Take(text.size() + places * to.size()));
  return Value(Replace(text, from, to, most));
}

Result Json(const Value& value, const Arguments& arguments, Budget& budget) {
  const Value indent = arguments.Get(0, "indent");
  for (const auto& [name, given] : arguments.keywords) {
    const bool harmless = name == "indent" || (name == "ensure_ascii" && !Truthy(given));
    if (!harmless)
      return absl::UnimplementedError(absl::StrCat("tojson(", name, ") is not supported"));
  }
  const int64_t width = indent.integer() != nullptr ? *indent.integer() : -1;
  if (width > kMaxIndent)
    return absl::InvalidArgumentError(absl::StrCat("an indent over ", kMaxIndent));
  LIFT_RETURN_IF_ERROR(
      budget.Take(uint64_t{value.weight} *
                  static_cast<uint64_t>(8 + std::max<int64_t>(width, 0) * value.depth)));
  LIFT_ASSIGN_OR_RETURN(std::string text, ToJson(value, width));
  return Value(std::move(text));
}

Result Items(const Value& value, const Arguments& arguments, Budget& budget) {
  return value.undefined() ? Result(Value(List())) : CallMethod("items", value, arguments, budget);
}

Result DictSort(const Value& value, const Arguments& arguments, Budget& budget) {
  if (!arguments.positional.empty() || !arguments.keywords.empty())
    return absl::UnimplementedError("dictsort takes no arguments here");
  if (value.dict() == nullptr) return absl::InvalidArgumentError("dictsort needs a dict");
  LIFT_RETURN_IF_ERROR(budget.Take(uint64_t{value.weight} * 16));
  Dict sorted = *value.dict();
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& a, const auto& b) { return Lower(a.first) < Lower(b.first); });
  return CallMethod("items", Value(std::move(sorted)), {}, budget);
}

Result Reverse(const Value& value, const Arguments&, Budget& budget) {
  LIFT_ASSIGN_OR_RETURN(List items, Iterate(value, budget));
  std::reverse(items.begin(), items.end());
  if (value.text() == nullptr) return Value(std::move(items));
  return ApplyFilter("join", Value(std::move(items)), {}, budget);
}

Result Indent(const Value& value, const Arguments& arguments, Budget& budget) {
  const Value width = arguments.Get(0, "width");
  const bool first = Truthy(arguments.Get(1, "first")), blank = Truthy(arguments.Get(2, "blank"));
  const int64_t count = width.integer() != nullptr ? *width.integer() : 4;
  if (count < 0 || count > kMaxIndent)
    return absl::InvalidArgumentError(absl::StrCat("an indent over ", kMaxIndent));
  const std::string text = Str(value), pad(static_cast<size_t>(count), ' ');
  LIFT_RETURN_IF_ERROR(budget.Take(text.size() * (pad.size() + 1)));
  std::string out;
  bool start = true, first_line = true;
  for (size_t i = 0; i < text.size(); ++i) {
    if (start && (first_line ? first : (blank || text[i] != '\n'))) out += pad;
    start = text[i] == '\n';
    first_line = first_line && !start;
    out += text[i];
  }
  return Value(std::move(out));
}

// selectattr/rejectattr(attribute[, test, arguments...]) and select/reject([test, arguments...])
Result Select(bool by_attribute, bool keep, const Value& value, const Arguments& arguments,
              Budget& budget) {
  const size_t skip = by_attribute ? 1 : 0;
  const Value test = arguments.Get(skip, "");
  const std::string name = test.text() != nullptr ? *test.text() : "";
  if (!test.undefined() && !IsTest(name))
    return absl::UnimplementedError(absl::StrCat("test \"", name, "\" is not supported"));
  Arguments rest;
  for (size_t i = skip + 1; i < arguments.positional.size(); ++i)
    rest.positional.push_back(arguments.positional[i]);
  LIFT_ASSIGN_OR_RETURN(const List items, Iterate(value, budget));
  List out;
  for (const Value& item : items) {
    Value subject = item;
    if (by_attribute) {
      LIFT_ASSIGN_OR_RETURN(subject, GetItem(item, arguments.Get(0, "")));
    }
    bool passes = Truthy(subject);
    if (!test.undefined()) {
      LIFT_ASSIGN_OR_RETURN(passes, ApplyTest(name, subject, rest, budget));
    }
    if (passes == keep) out.push_back(item);
  }
  return Value(std::move(out));
}

// map(attribute="name"[, default=...]) and map("filter", arguments...)
Result Map(const Value& value, const Arguments& arguments, Budget& budget) {
  const Value attribute = arguments.Get(arguments.positional.size(), "attribute"),
              filter = arguments.Get(0, "");
  const Value otherwise = arguments.Get(arguments.positional.size(), "default");
  if (attribute.undefined() && (filter.text() == nullptr || !IsFilter(*filter.text()))) {
    return absl::UnimplementedError(absl::StrCat("map(\"", Str(filter), "\") is not supported"));
  }
  Arguments rest;
  for (size_t i = 1; i < arguments.positional.size(); ++i)
    rest.positional.push_back(arguments.positional[i]);
  LIFT_ASSIGN_OR_RETURN(const List items, Iterate(value, budget));
  List out;
  for (const Value& item : items) {
    Value mapped;
    if (attribute.undefined()) {
      LIFT_ASSIGN_OR_RETURN(mapped, ApplyFilter(*filter.text(), item, rest, budget));
    } else {
      LIFT_ASSIGN_OR_RETURN(mapped, GetItem(item, attribute));
      if (mapped.undefined() && !otherwise.undefined()) mapped = otherwise;
    }
    out.push_back(std::move(mapped));
  }
  return Value(std::move(out));
}

const std::map<std::string_view, Filter>& Filters() {
  using A = Arguments;
  static const std::map<std::string_view, Filter> filters = {
      {"trim", Trim},
      {"length", LengthOf},
      {"count", LengthOf},
      {"default", Default},
      {"d", Default},
      {"join", Join},
      {"first", First},
      {"last", Last},
      {"int", ToInteger},
      {"replace", ReplaceText},
      {"tojson", Json},
      {"items", Items},
      {"dictsort", DictSort},
      {"reverse", Reverse},
      {"indent", Indent},
      {"map", Map},
      {"string", [](const Value& v, const A&, Budget&) -> Result { return Value(Str(v)); }},
      {"safe", [](const Value& v, const A&, Budget&) -> Result { return Value(Str(v)); }},
      {"upper", [](const Value& v, const A&, Budget&) -> Result { return Value(Upper(Str(v))); }},
      {"lower", [](const Value& v, const A&, Budget&) -> Result { return Value(Lower(Str(v))); }},
      {"capitalize",
       [](const Value& v, const A&, Budget&) -> Result { return Value(Capitalize(Str(v))); }},
      {"list",
       [](const Value& v, const A&, Budget& b) -> Result {
         LIFT_ASSIGN_OR_RETURN(List items, Iterate(v, b));
         return Value(std::move(items));
       }},
      {"selectattr",
       [](const Value& v, const A& a, Budget& b) { return Select(true, true, v, a, b); }},
      {"rejectattr",
       [](const Value& v, const A& a, Budget& b) { return Select(true, false, v, a, b); }},
      {"select",
       [](const Value& v, const A& a, Budget& b) { return Select(false, true, v, a, b); }},
      {"reject",
       [](const Value& v, const A& a, Budget& b) { return Select(false, false, v, a, b); }},
  };
  return filters;
}

}  // namespace

bool IsFilter(std::string_view name) { return Filters().contains(name); }

absl::StatusOr<Value> ApplyFilter(std::string_view name, const Value& value,
                                  const Arguments& arguments, Budget& budget) {
  LIFT_RETURN_IF_ERROR(budget.Take(value.weight));
  const auto filter = Filters().find(name);
  if (filter == Filters().end())
    return absl::UnimplementedError(
        absl::StrCat("filter \"", std::string(name), "\" is not supported"));
  return filter->second(value, arguments, budget);
}

}  // namespace lift::jinja
