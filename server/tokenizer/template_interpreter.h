// Runs a chat template. One Interpreter renders once.
#pragma once

#include <ctime>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "server/tokenizer/template_ast.h"
#include "server/tokenizer/template_builtins.h"

namespace lift::jinja {

class Interpreter {
 public:
  // `now`: what strftime_now() shows, in UTC.
  explicit Interpreter(std::time_t now);

  void SetGlobal(const std::string& name, Value value) { scopes_.front()[name] = std::move(value); }
  // INVALID_ARGUMENT: the template raised an exception or met values it cannot work with;
  // RESOURCE_EXHAUSTED: over the limits. Messages name the line.
  absl::StatusOr<std::string> Run(const Block& block);

 private:
  using Scope = std::map<std::string, Value, std::less<>>;
  enum class Flow { kNext, kBreak, kContinue };

  absl::StatusOr<Flow> Execute(const Block& block);
  absl::StatusOr<Flow> Execute(const Statement& statement);
  absl::StatusOr<Flow> If(const Statement& statement);
  absl::StatusOr<Flow> For(const Statement& statement);
  absl::Status Set(const Statement& statement);
  absl::StatusOr<List> FilteredItems(const Statement& statement);
  absl::Status Unpack(const Statement& statement, const Value& item);
  absl::StatusOr<std::string> Capture(const Block& block);
  absl::Status Print(std::string_view text);

  absl::StatusOr<Value> Evaluate(const Expr& expr);
  absl::StatusOr<Value> EvaluateKind(const Expr& expr);
  absl::StatusOr<Value> Container(const Expr& expr);
  absl::StatusOr<Value> Binary(const Expr& expr);
  absl::StatusOr<Value> CompareChain(const Expr& expr);
  absl::StatusOr<bool> CompareOne(const std::string& op, const Value& left, const Value& right);
  absl::StatusOr<Value> Slice(const Expr& expr);
  absl::StatusOr<Value> Attribute(const Value& object, const std::string& name);
  absl::StatusOr<Value> Call(const Expr& expr);
  absl::StatusOr<Value> CallMacro(const Statement& macro, const Arguments& arguments);
  absl::StatusOr<Value> Range(const Arguments& arguments);
  absl::StatusOr<Value> Now(const Arguments& arguments) const;
  absl::StatusOr<Arguments> EvaluateArguments(const Expr& expr, size_t first);
  Value LookUp(const std::string& name) const;

  std::time_t now_;
  Budget budget_;
  int depth_ = 0;  // of recursion, statements and expressions together
  std::string output_;
  std::vector<Scope> scopes_;  // front: globals; a name is looked up from the back
  std::vector<Scope> namespaces_;
  std::map<std::string, const Statement*> macros_;
};

}  // namespace lift::jinja
