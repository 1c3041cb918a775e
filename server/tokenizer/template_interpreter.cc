// Statements.
#include "server/tokenizer/template_interpreter.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace lift::jinja {
namespace {

// A step costs kStepUnits on top of the bytes it makes, so that about a million steps or 256 MiB
// end a rendering.
constexpr uint64_t kBudgetUnits = 1ull << 28, kStepUnits = 256;
constexpr size_t kMaxOutputBytes = 64u << 20;
constexpr int kMaxDepth = 400;

// Adds where it happened, once.
absl::Status AtLine(const absl::Status& status, int line) {
  if (absl::StrContains(status.message(), "Chat template line ")) return status;
  return absl::Status(status.code(),
                      absl::StrCat("Chat template line ", line, ": ", status.message()));
}

Value LoopValue(const List& items, size_t i) {
  const auto number = [](size_t n) { return Value(static_cast<int64_t>(n)); };
  return Value(
      Dict{{"index", number(i + 1)},
           {"index0", number(i)},
           {"revindex", number(items.size() - i)},
           {"revindex0", number(items.size() - i - 1)},
           {"first", Value(i == 0)},
           {"last", Value(i + 1 == items.size())},
           {"length", number(items.size())},
           {"previtem", i == 0 ? Value(Undefined{"loop.previtem"}) : items[i - 1]},
           {"nextitem", i + 1 == items.size() ? Value(Undefined{"loop.nextitem"}) : items[i + 1]}});
}

}  // namespace

Interpreter::Interpreter(std::time_t now) : now_(now), budget_(kBudgetUnits), scopes_(1) {}

absl::StatusOr<std::string> Interpreter::Run(const Block& block) {
  LIFT_RETURN_IF_ERROR(Execute(block).status());
  return std::move(output_);
}

absl::StatusOr<Interpreter::Flow> Interpreter::Execute(const Block& block) {
  for (const auto& statement : block) {
    if (++depth_ > kMaxDepth)
      return AtLine(absl::ResourceExhaustedError("the template recurses too deeply"),
                    statement->line);
    auto flow = Execute(*statement);
    --depth_;
    if (!flow.ok()) return AtLine(flow.status(), statement->line);
    if (*flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

absl::StatusOr<Interpreter::Flow> Interpreter::Execute(const Statement& statement) {
  LIFT_RETURN_IF_ERROR(budget_.Take(kStepUnits));
  switch (statement.kind) {
    case Statement::kText:
      LIFT_RETURN_IF_ERROR(Print(statement.text));
      return Flow::kNext;
    case Statement::kOutput: {
      LIFT_ASSIGN_OR_RETURN(const Value value, Evaluate(*statement.expr));
      LIFT_RETURN_IF_ERROR(budget_.Take(value.weight));
      LIFT_RETURN_IF_ERROR(Print(Str(value)));
      return Flow::kNext;
    }
    case Statement::kIf:
      return If(statement);
    case Statement::kFor:
      return For(statement);
    case Statement::kSet:
    case Statement::kSetAttribute:
    case Statement::kSetBlock:
      LIFT_RETURN_IF_ERROR(Set(statement));
      return Flow::kNext;
    case Statement::kMacro:
      macros_[statement.text] = &statement;
      return Flow::kNext;
    case Statement::kBreak:
      return Flow::kBreak;
    case Statement::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

absl::Status Interpreter::Print(std::string_view text) {
  if (text.size() > kMaxOutputBytes - output_.size()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the template prints more than ", kMaxOutputBytes, " bytes"));
  }
  output_ += text;
  return budget_.Take(text.size());
}

absl::StatusOr<std::string> Interpreter::Capture(const Block& block) {
  std::string outside = std::exchange(output_, {});
  LIFT_RETURN_IF_ERROR(Execute(block).status());
  return std::exchange(output_, std::move(outside));
}

absl::StatusOr<Interpreter::Flow> Interpreter::If(const Statement& statement) {
  for (const auto& [condition, body] : statement.branches) {
    bool taken = condition == nullptr;
    if (!taken) {
      LIFT_ASSIGN_OR_RETURN(const Value value, Evaluate(*condition));
      taken = Truthy(value);
    }
    if (taken) return Execute(body);
  }
  return Flow::kNext;
}

absl::Status Interpreter::Unpack(const Statement& statement, const Value& item) {
  Scope& scope = scopes_.back();
  if (statement.names.size() == 1) {
    scope[statement.names[0]] = item;
    return absl::OkStatus();
  }
  LIFT_ASSIGN_OR_RETURN(const List parts, Iterate(item, budget_));
  if (parts.size() != statement.names.size()) {
    return absl::InvalidArgumentError(absl::StrCat("cannot unpack ", parts.size(), " values into ",
                                                   statement.names.size(), " names"));
  }
  for (size_t i = 0; i < parts.size(); ++i) scope[statement.names[i]] = parts[i];
  return absl::OkStatus();
}

absl::StatusOr<List> Interpreter::FilteredItems(const Statement& statement) {
  LIFT_ASSIGN_OR_RETURN(const Value sequence, Evaluate(*statement.expr));
  LIFT_ASSIGN_OR_RETURN(List items, Iterate(sequence, budget_));
  if (statement.filter == nullptr) return items;
  List kept;
  scopes_.emplace_back();
  for (const Value& item : items) {
    LIFT_RETURN_IF_ERROR(Unpack(statement, item));
    LIFT_ASSIGN_OR_RETURN(const Value keep, Evaluate(*statement.filter));
    if (Truthy(keep)) kept.push_back(item);
  }
  scopes_.pop_back();
  return kept;
}

absl::StatusOr<Interpreter::Flow> Interpreter::For(const Statement& statement) {
  LIFT_ASSIGN_OR_RETURN(const List items, FilteredItems(statement));
  if (items.empty()) return Execute(statement.otherwise);
  scopes_.emplace_back();
  for (size_t i = 0; i < items.size(); ++i) {
    scopes_.back().clear();  // names set in one round are gone in the next
    LIFT_RETURN_IF_ERROR(budget_.Take(4 * kStepUnits));
    LIFT_RETURN_IF_ERROR(Unpack(statement, items[i]));
    scopes_.back()["loop"] = LoopValue(items, i);
    LIFT_ASSIGN_OR_RETURN(const Flow flow, Execute(statement.body));
    if (flow == Flow::kBreak) break;
  }
  scopes_.pop_back();
  return Flow::kNext;
}

absl::Status Interpreter::Set(const Statement& statement) {
  Value value;
  if (statement.kind == Statement::kSetBlock) {
    LIFT_ASSIGN_OR_RETURN(std::string text, Capture(statement.body));
    value = Value(std::move(text));
  } else {
    LIFT_ASSIGN_OR_RETURN(value, Evaluate(*statement.expr));
  }
  const std::string& name = statement.names[0];
  if (statement.kind != Statement::kSetAttribute) {
    scopes_.back()[name] = std::move(value);
    return absl::OkStatus();
  }
  const Value target = LookUp(name);
  if (target.ns() == nullptr)
    return absl::InvalidArgumentError(
        absl::StrCat("cannot set an attribute of \"", name, "\": not a namespace"));
  namespaces_[target.ns()->index][statement.names[1]] = std::move(value);
  return absl::OkStatus();
}

Value Interpreter::LookUp(const std::string& name) const {
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
    if (const auto it = scope->find(name); it != scope->end()) return it->second;
  }
  if (IsFunction(name) || macros_.contains(name)) return Value(FunctionRef{name});
  return Value(Undefined{name});
}

// A macro sees its arguments and the globals, not what surrounds the call.
absl::StatusOr<Value> Interpreter::CallMacro(const Statement& macro, const Arguments& arguments) {
  if (arguments.positional.size() > macro.names.size())
    return absl::InvalidArgumentError(absl::StrCat("too many arguments for ", macro.text, "()"));
  for (const auto& [name, value] : arguments.keywords) {
    if (std::find(macro.names.begin(), macro.names.end(), name) == macro.names.end()) {
      return absl::InvalidArgumentError(absl::StrCat(macro.text, "() has no argument ", name));
    }
  }
  std::vector<Scope> hidden(std::make_move_iterator(scopes_.begin() + 1),
                            std::make_move_iterator(scopes_.end()));
  scopes_.resize(1);
  scopes_.emplace_back();
  for (size_t i = 0; i < macro.names.size(); ++i) {
    Value value = arguments.Get(i, macro.names[i]);
    if (value.undefined() && macro.defaults[i] != nullptr) {
      LIFT_ASSIGN_OR_RETURN(value, Evaluate(*macro.defaults[i]));
    }
    scopes_.back()[macro.names[i]] = std::move(value);
  }
  LIFT_ASSIGN_OR_RETURN(std::string text, Capture(macro.body));
  scopes_.resize(1);
  std::move(hidden.begin(), hidden.end(), std::back_inserter(scopes_));
  return Value(std::move(text));
}

absl::StatusOr<Value> Interpreter::Evaluate(const Expr& expr) {
  LIFT_RETURN_IF_ERROR(budget_.Take(kStepUnits));
  if (++depth_ > kMaxDepth)
    return AtLine(absl::ResourceExhaustedError("the template recurses too deeply"), expr.line);
  auto value = EvaluateKind(expr);
  --depth_;
  if (!value.ok()) return AtLine(value.status(), expr.line);
  return value;
}

}  // namespace lift::jinja
