// Tests ("x is defined") and the names of functions.
#include <algorithm>
#include <array>
#include <functional>
#include <map>

#include "absl/strings/str_cat.h"
#include "server/tokenizer/template_builtins.h"
#include "server/tokenizer/template_text.h"

namespace lift::jinja {
namespace {

using Test = std::function<absl::StatusOr<bool>(const Value&, const Arguments&, Budget&)>;

absl::StatusOr<bool> IsEqual(const Value& value, const Arguments& arguments, Budget& budget) {
  const Value other = arguments.Get(0, "other");
  LIFT_RETURN_IF_ERROR(budget.Take(std::min(value.weight, other.weight)));
  return Equal(value, other);
}

absl::StatusOr<bool> Divides(const Value& value, const Value& divisor, int64_t rest) {
  if (value.integer() == nullptr || divisor.integer() == nullptr || *divisor.integer() == 0) {
    return absl::InvalidArgumentError("odd, even and divisibleby need whole numbers other than 0");
  }
  if (*divisor.integer() == -1) return rest == 0;
  return (*value.integer() % *divisor.integer() != 0) == (rest != 0);
}

absl::StatusOr<bool> Ordered(const Value& value, const Arguments& arguments, int wanted,
                             bool or_equal) {
  LIFT_ASSIGN_OR_RETURN(const int order, Compare(value, arguments.Get(0, "other")));
  return order == wanted || (or_equal && order == 0);
}

bool IsSequence(const Value& v) {
  return v.text() != nullptr || v.list() != nullptr || v.dict() != nullptr || v.undefined();
}

const std::map<std::string_view, Test>& Tests() {
  using A = Arguments;
  using V = Value;
  static const std::map<std::string_view, Test> tests = {
      {"defined", [](const V& v, const A&, Budget&) { return !v.undefined(); }},
      {"undefined", [](const V& v, const A&, Budget&) { return v.undefined(); }},
      {"none", [](const V& v, const A&, Budget&) { return v.none(); }},
      {"string", [](const V& v, const A&, Budget&) { return v.text() != nullptr; }},
      {"mapping", [](const V& v, const A&, Budget&) { return v.dict() != nullptr; }},
      {"iterable", [](const V& v, const A&, Budget&) { return IsSequence(v); }},
      {"sequence", [](const V& v, const A&, Budget&) { return IsSequence(v); }},
      {"number", [](const V& v, const A&,
                    Budget&) { return v.integer() != nullptr || v.boolean() != nullptr; }},
      {"integer", [](const V& v, const A&, Budget&) { return v.integer() != nullptr; }},
      {"boolean", [](const V& v, const A&, Budget&) { return v.boolean() != nullptr; }},
      {"true",
       [](const V& v, const A&, Budget&) { return v.boolean() != nullptr && *v.boolean(); }},
      {"false",
       [](const V& v, const A&, Budget&) { return v.boolean() != nullptr && !*v.boolean(); }},
      {"callable", [](const V& v, const A&, Budget&) { return v.function(); }},
      {"lower", [](const V& v, const A&,
                   Budget&) { return Lower(Str(v)) == Str(v) && Upper(Str(v)) != Str(v); }},
      {"upper", [](const V& v, const A&,
                   Budget&) { return Upper(Str(v)) == Str(v) && Lower(Str(v)) != Str(v); }},
      {"odd", [](const V& v, const A&, Budget&) { return Divides(v, V(int64_t{2}), 1); }},
      {"even", [](const V& v, const A&, Budget&) { return Divides(v, V(int64_t{2}), 0); }},
      {"divisibleby",
       [](const V& v, const A& a, Budget&) { return Divides(v, a.Get(0, "num"), 0); }},
      {"in", [](const V& v, const A& a, Budget& b) { return Contains(a.Get(0, "seq"), v, b); }},
      {"eq", IsEqual},
      {"equalto", IsEqual},
      {"==", IsEqual},
      {"sameas",
       [](const V& v, const A& a, Budget& b) -> absl::StatusOr<bool> {
         LIFT_ASSIGN_OR_RETURN(const bool equal, IsEqual(v, a, b));
         return equal && v.v.index() == a.Get(0, "other").v.index();
       }},
      {"ne",
       [](const V& v, const A& a, Budget& b) -> absl::StatusOr<bool> {
         LIFT_ASSIGN_OR_RETURN(const bool equal, IsEqual(v, a, b));
         return !equal;
       }},
      {"lt", [](const V& v, const A& a, Budget&) { return Ordered(v, a, -1, false); }},
      {"le", [](const V& v, const A& a, Budget&) { return Ordered(v, a, -1, true); }},
      {"gt", [](const V& v, const A& a, Budget&) { return Ordered(v, a, 1, false); }},
      {"ge", [](const V& v, const A& a, Budget&) { return Ordered(v, a, 1, true); }},
  };
  return tests;
}

constexpr std::array<std::string_view, 5> kFunctions = {"raise_exception", "strftime_now",
                                                        "namespace", "range", "dict"};

}  // namespace

bool IsTest(std::string_view name) { return Tests().contains(name); }

bool IsFunction(std::string_view name) {
  return std::find(kFunctions.begin(), kFunctions.end(), name) != kFunctions.end();
}

absl::StatusOr<bool> ApplyTest(std::string_view name, const Value& value,
                               const Arguments& arguments, Budget& budget) {
  LIFT_RETURN_IF_ERROR(budget.Take(1));
  const auto test = Tests().find(name);
  if (test == Tests().end())
    return absl::UnimplementedError(
        absl::StrCat("test \"", std::string(name), "\" is not supported"));
  return test->second(value, arguments, budget);
}

}  // namespace lift::jinja
