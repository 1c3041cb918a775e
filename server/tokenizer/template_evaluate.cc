// Expressions.
#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "server/tokenizer/template_interpreter.h"
#include "server/tokenizer/template_text.h"

namespace lift::jinja {
namespace {

constexpr int kMaxValueDepth = 40;
constexpr uint32_t kMaxValueWeight = 64u << 20;

absl::Status CheckSize(const Value& value) {
  if (value.depth > kMaxValueDepth || value.weight > kMaxValueWeight) {
    return absl::ResourceExhaustedError("a value grows too large or nests too deeply");
  }
  return absl::OkStatus();
}

absl::Status Overflow() { return absl::InvalidArgumentError("a number overflows"); }

absl::StatusOr<Value> Arithmetic(const std::string& op, int64_t a, int64_t b) {
  int64_t result = 0;
  if (op == "+")
    return __builtin_add_overflow(a, b, &result) ? absl::StatusOr<Value>(Overflow())
                                                 : Value(result);
  if (op == "-")
    return __builtin_sub_overflow(a, b, &result) ? absl::StatusOr<Value>(Overflow())
                                                 : Value(result);
  if (op == "*")
    return __builtin_mul_overflow(a, b, &result) ? absl::StatusOr<Value>(Overflow())
                                                 : Value(result);
  if (b == 0) return absl::InvalidArgumentError("division by zero");
  if (b == -1) return op == "%" ? Value(int64_t{0}) : Arithmetic("-", 0, a);
  const bool floors_down = a % b != 0 && ((a < 0) != (b < 0));
  return op == "//" ? Value(a / b - (floors_down ? 1 : 0)) : Value(a % b + (floors_down ? b : 0));
}

// Python's slice of `size` elements as the indices it picks.
std::vector<int64_t> SliceIndices(int64_t size, const int64_t* start, const int64_t* stop,
                                  int64_t step) {
  const auto clamp = [&](const int64_t* given, int64_t otherwise, int64_t low, int64_t high) {
    if (given == nullptr) return otherwise;
    return std::clamp(*given < 0 ? *given + size : *given, low, high);
  };
  std::vector<int64_t> out;
  if (step > 0) {
    const int64_t from = clamp(start, 0, 0, size), to = clamp(stop, size, 0, size);
    for (int64_t i = from; i < to; i += std::min(step, size)) out.push_back(i);
  } else {
    const int64_t from = clamp(start, size - 1, -1, size - 1), to = clamp(stop, -1, -1, size - 1);
    for (int64_t i = from; i > to; i += std::max(step, -size)) out.push_back(i);
  }
  return out;
}

}  // namespace

absl::StatusOr<Value> Interpreter::EvaluateKind(const Expr& expr) {
  const auto arg = [&](size_t i) { return Evaluate(*expr.args[i]); };
  switch (expr.kind) {
    case Expr::kLiteral:
      return expr.value;
    case Expr::kName:
      return LookUp(expr.text);
    case Expr::kList:
    case Expr::kDict:
      return Container(expr);
    case Expr::kAttribute: {
      LIFT_ASSIGN_OR_RETURN(const Value object, arg(0));
      return Attribute(object, expr.text);
    }
    case Expr::kItem: {
      LIFT_ASSIGN_OR_RETURN(const Value object, arg(0));
      LIFT_ASSIGN_OR_RETURN(const Value key, arg(1));
      LIFT_RETURN_IF_ERROR(
          budget_.Take(object.text() != nullptr ? uint64_t{object.weight} * 16 : 1));
      return key.text() != nullptr ? Attribute(object, *key.text()) : GetItem(object, key);
    }
    case Expr::kSlice:
      return Slice(expr);
    case Expr::kCall:
      return Call(expr);
    case Expr::kMethod:
    case Expr::kFilter: {
      LIFT_ASSIGN_OR_RETURN(const Value object, arg(0));
      LIFT_ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(expr, 1));
      const bool filter = expr.kind == Expr::kFilter;
      LIFT_ASSIGN_OR_RETURN(Value value, filter
                                             ? ApplyFilter(expr.text, object, arguments, budget_)
                                             : CallMethod(expr.text, object, arguments, budget_));
      LIFT_RETURN_IF_ERROR(CheckSize(value));
      return value;
    }
    case Expr::kTest: {
      LIFT_ASSIGN_OR_RETURN(const Value object, arg(0));
      LIFT_ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(expr, 1));
      LIFT_ASSIGN_OR_RETURN(const bool passes, ApplyTest(expr.text, object, arguments, budget_));
      return Value(passes);
    }
    case Expr::kNot: {
      LIFT_ASSIGN_OR_RETURN(const Value value, arg(0));
      return Value(!Truthy(value));
    }
    case Expr::kNegate: {
      LIFT_ASSIGN_OR_RETURN(const Value value, arg(0));
      if (value.integer() == nullptr)
        return absl::InvalidArgumentError(absl::StrCat("cannot negate ", TypeName(value)));
      return Arithmetic("-", 0, *value.integer());
    }
    case Expr::kAnd:
    case Expr::kOr: {
      LIFT_ASSIGN_OR_RETURN(Value value, arg(0));
      return Truthy(value) == (expr.kind == Expr::kOr) ? std::move(value) : arg(1);
    }
    case Expr::kBinary:
      return Binary(expr);
    case Expr::kCompare:
      return CompareChain(expr);
    case Expr::kConditional: {
      LIFT_ASSIGN_OR_RETURN(const Value condition, arg(1));
      if (Truthy(condition)) return arg(0);
      return expr.args[2] == nullptr ? Value(Undefined{"inline if without else"}) : arg(2);
    }
  }
  return Value();
}

absl::StatusOr<Value> Interpreter::Container(const Expr& expr) {
  List items;
  for (const ExprPtr& arg : expr.args) {
    LIFT_ASSIGN_OR_RETURN(Value item, Evaluate(*arg));
    items.push_back(std::move(item));
  }
  Value value;
  if (expr.kind == Expr::kList) {
    value = Value(std::move(items));
  } else {
    Dict dict;
    for (size_t i = 0; i + 1 < items.size(); i += 2) {
      if (items[i].text() == nullptr)
        return absl::UnimplementedError("dictionary keys other than strings are not supported");
      const std::string& key = *items[i].text();
      const auto it = std::find_if(dict.begin(), dict.end(),
                                   [&](const auto& entry) { return entry.first == key; });
      if (it == dict.end()) {
        dict.emplace_back(key, items[i + 1]);
      } else {
        it->second = items[i + 1];
      }
    }
    value = Value(std::move(dict));
  }
  LIFT_RETURN_IF_ERROR(CheckSize(value));
  return value;
}

absl::StatusOr<Value> Interpreter::Attribute(const Value& object, const std::string& name) {
  if (object.ns() != nullptr) {
    const Scope& fields = namespaces_[object.ns()->index];
    const auto it = fields.find(name);
    return it == fields.end() ? Value(Undefined{name}) : it->second;
  }
  return GetItem(object, Value(name));
}

absl::StatusOr<Value> Interpreter::Binary(const Expr& expr) {
  LIFT_ASSIGN_OR_RETURN(const Value left, Evaluate(*expr.args[0]));
  LIFT_ASSIGN_OR_RETURN(const Value right, Evaluate(*expr.args[1]));
  const std::string& op = expr.text;
  LIFT_RETURN_IF_ERROR(
      budget_.Take(op == "~" || op == "+" ? uint64_t{left.weight} + right.weight : 1));
  Value value;
  if (op == "~") {
    value = Value(absl::StrCat(Str(left), Str(right)));
  } else if (left.undefined() || right.undefined()) {
    const Value& missing = left.undefined() ? left : right;
    return absl::InvalidArgumentError(
        absl::StrCat("\"", std::get<Undefined>(missing.v).name, "\" is undefined"));
  } else if (op == "+" && left.text() != nullptr && right.text() != nullptr) {
    value = Value(absl::StrCat(*left.text(), *right.text()));
  } else if (op == "+" && left.list() != nullptr && right.list() != nullptr) {
    List items = *left.list();
    items.insert(items.end(), right.list()->begin(), right.list()->end());
    value = Value(std::move(items));
  } else if (op == "*" && left.text() != nullptr && right.integer() != nullptr) {
    const uint64_t count = static_cast<uint64_t>(std::max<int64_t>(*right.integer(), 0));
    if (count > kMaxValueWeight || left.weight * count > kMaxValueWeight)
      return absl::ResourceExhaustedError("a value grows too large");
    LIFT_RETURN_IF_ERROR(budget_.Take(left.weight * count));
    std::string text;
    for (uint64_t i = 0; i < count; ++i) text += *left.text();
    value = Value(std::move(text));
  } else if (left.integer() != nullptr && right.integer() != nullptr) {
    return Arithmetic(op, *left.integer(), *right.integer());
  } else {
    return absl::InvalidArgumentError(absl::StrCat("operator ", op, " does not work on ",
                                                   TypeName(left), " and ", TypeName(right)));
  }
  LIFT_RETURN_IF_ERROR(CheckSize(value));
  return value;
}

absl::StatusOr<bool> Interpreter::CompareOne(const std::string& op, const Value& left,
                                             const Value& right) {
  if (op == "in" || op == "not in") {
    LIFT_ASSIGN_OR_RETURN(const bool contains, Contains(right, left, budget_));
    return contains == (op == "in");
  }
  LIFT_RETURN_IF_ERROR(budget_.Take(std::min(left.weight, right.weight)));
  if (op == "==") return Equal(left, right);
  if (op == "!=") return !Equal(left, right);
  LIFT_ASSIGN_OR_RETURN(const int order, Compare(left, right));
  if (op == "<") return order < 0;
  if (op == "<=") return order <= 0;
  return op == ">" ? order > 0 : order >= 0;
}

absl::StatusOr<Value> Interpreter::CompareChain(const Expr& expr) {
  LIFT_ASSIGN_OR_RETURN(Value left, Evaluate(*expr.args[0]));
  for (size_t i = 0; i < expr.ops.size(); ++i) {
    LIFT_ASSIGN_OR_RETURN(Value right, Evaluate(*expr.args[i + 1]));
    LIFT_ASSIGN_OR_RETURN(const bool holds, CompareOne(expr.ops[i], left, right));
    if (!holds) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

absl::StatusOr<Value> Interpreter::Slice(const Expr& expr) {
  LIFT_ASSIGN_OR_RETURN(const Value object, Evaluate(*expr.args[0]));
  std::array<Value, 3> bounds;
  for (size_t i = 0; i < 3; ++i) {
    if (expr.args[i + 1] == nullptr) continue;
    LIFT_ASSIGN_OR_RETURN(bounds[i], Evaluate(*expr.args[i + 1]));
    if (bounds[i].integer() == nullptr && !bounds[i].none())
      return absl::InvalidArgumentError("slice bounds must be whole numbers");
  }
  const int64_t step = bounds[2].integer() != nullptr ? *bounds[2].integer() : 1;
  if (step == 0) return absl::InvalidArgumentError("a slice step of 0");
  if (object.undefined()) return Value(List());
  if (object.text() == nullptr && object.list() == nullptr)
    return absl::InvalidArgumentError(absl::StrCat("cannot slice ", TypeName(object)));
  LIFT_RETURN_IF_ERROR(budget_.Take(object.text() != nullptr ? uint64_t{object.weight} * 16
                                                             : object.list()->size() * 16));
  if (const List* list = object.list()) {
    List out;
    for (const int64_t i : SliceIndices(static_cast<int64_t>(list->size()), bounds[0].integer(),
                                        bounds[1].integer(), step)) {
      out.push_back((*list)[i]);
    }
    return Value(std::move(out));
  }
  const auto characters = Characters(*object.text());
  std::string out;
  for (const int64_t i : SliceIndices(static_cast<int64_t>(characters.size()), bounds[0].integer(),
                                      bounds[1].integer(), step)) {
    out += characters[i];
  }
  return Value(std::move(out));
}

absl::StatusOr<Arguments> Interpreter::EvaluateArguments(const Expr& expr, size_t first) {
  Arguments arguments;
  for (size_t i = first; i < expr.args.size(); ++i) {
    LIFT_ASSIGN_OR_RETURN(Value value, Evaluate(*expr.args[i]));
    arguments.positional.push_back(std::move(value));
  }
  for (const auto& [name, argument] : expr.keywords) {
    LIFT_ASSIGN_OR_RETURN(Value value, Evaluate(*argument));
    arguments.keywords.emplace_back(name, std::move(value));
  }
  return arguments;
}

absl::StatusOr<Value> Interpreter::Call(const Expr& expr) {
  LIFT_ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(expr, 0));
  const std::string& name = expr.text;
  if (name == "raise_exception")
    return absl::InvalidArgumentError(
        absl::StrCat("the template refuses this conversation: ", Str(arguments.Get(0, "message"))));
  if (name == "strftime_now") return Now(arguments);
  if (name == "range") return Range(arguments);
  if (name == "namespace" || name == "dict") {
    if (!arguments.positional.empty())
      return absl::UnimplementedError(
          absl::StrCat(name, "() with positional arguments is not supported"));
    if (name == "dict") {
      Value value(Dict(arguments.keywords.begin(), arguments.keywords.end()));
      LIFT_RETURN_IF_ERROR(CheckSize(value));
      return value;
    }
    namespaces_.emplace_back(arguments.keywords.begin(), arguments.keywords.end());
    return Value(NamespaceRef{namespaces_.size() - 1});
  }
  const auto macro = macros_.find(name);
  if (macro == macros_.end())
    return absl::InvalidArgumentError(
        absl::StrCat("macro ", name, "() is called before it is defined"));
  return CallMacro(*macro->second, arguments);
}

absl::StatusOr<Value> Interpreter::Range(const Arguments& arguments) {
  int64_t bounds[3] = {0, 0, 1};
  const size_t count = arguments.positional.size();
  for (size_t i = 0; i < count && i < 3; ++i) {
    if (arguments.positional[i].integer() == nullptr)
      return absl::InvalidArgumentError("range() needs whole numbers");
    bounds[count == 1 ? 1 : i] = *arguments.positional[i].integer();
  }
  if (count == 0 || count > 3 || bounds[2] == 0)
    return absl::InvalidArgumentError("range() takes one to three numbers, the step not 0");
  List out;
  for (int64_t i = bounds[0]; bounds[2] > 0 ? i < bounds[1] : i > bounds[1];) {
    LIFT_RETURN_IF_ERROR(budget_.Take(64));
    if (out.size() >= 100'000) return absl::ResourceExhaustedError("range() is longer than 100000");
    out.push_back(Value(i));
    if (__builtin_add_overflow(i, bounds[2], &i)) break;
  }
  return Value(std::move(out));
}

absl::StatusOr<Value> Interpreter::Now(const Arguments& arguments) const {
  const Value format = arguments.Get(0, "format");
  if (format.text() == nullptr || format.text()->size() > 200)
    return absl::InvalidArgumentError("strftime_now() needs a short format string");
  std::tm parts{};
  gmtime_r(&now_, &parts);
  char buffer[4096];
  // The space in front tells an empty result from one that does not fit.
  const size_t length =
      std::strftime(buffer, sizeof(buffer), absl::StrCat(" ", *format.text()).c_str(), &parts);
  if (length == 0) return absl::InvalidArgumentError("strftime_now() makes too long a text");
  return Value(std::string(buffer + 1, length - 1));
}

}  // namespace lift::jinja
