// Expressions, by recursive descent in Jinja's order of precedence.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/tokenizer/template_builtins.h"
#include "server/tokenizer/template_parser.h"

namespace lift::jinja {
namespace {

// Counts a level of recursion while it lives.
class Level {
 public:
  explicit Level(int& level) : level_(level) { ++level_; }
  ~Level() { --level_; }

 private:
  int& level_;
};

}  // namespace

bool ExpressionParser::SkipOperator(const char* op) {
  if (!IsOperator(op)) return false;
  Next();
  return true;
}

bool ExpressionParser::SkipName(const char* name) {
  if (!IsName(name)) return false;
  Next();
  return true;
}

absl::Status ExpressionParser::ExpectOperator(const char* op) {
  return SkipOperator(op) ? absl::OkStatus() : Invalid(absl::StrCat("\"", op, "\" is missing"));
}

absl::StatusOr<std::string> ExpressionParser::ExpectName() {
  if (Peek().kind != Token::kName) return Invalid("a name is missing");
  return Next().text;
}

absl::Status ExpressionParser::Invalid(const std::string& message) const {
  return absl::InvalidArgumentError(
      absl::StrCat("Chat template line ", Peek().line, ": ", message));
}

absl::Status ExpressionParser::Unsupported(const std::string& what) const {
  return absl::UnimplementedError(
      absl::StrCat("Chat template line ", Peek().line, ": ", what, " is not supported"));
}

ExprPtr ExpressionParser::Make(Expr::Kind kind, std::string text) const {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->line = Peek().line;
  expr->text = std::move(text);
  return expr;
}

absl::StatusOr<ExprPtr> ExpressionParser::Finish(ExprPtr expr) const {
  for (const ExprPtr& arg : expr->args) {
    if (arg != nullptr) expr->depth = std::max(expr->depth, arg->depth + 1);
  }
  for (const auto& [name, arg] : expr->keywords)
    expr->depth = std::max(expr->depth, arg->depth + 1);
  if (expr->depth > kMaxExprDepth) return Unsupported("an expression this deep");
  return expr;
}

absl::StatusOr<ExprPtr> ExpressionParser::Expression() {
  const Level level(nesting_);
  if (nesting_ > kMaxNesting) return Unsupported("nesting this deep");
  LIFT_ASSIGN_OR_RETURN(ExprPtr value, Or());
  while (SkipName("if")) {
    ExprPtr expr = Make(Expr::kConditional);
    expr->args.push_back(std::move(value));
    LIFT_ASSIGN_OR_RETURN(ExprPtr condition, Or());
    expr->args.push_back(std::move(condition));
    ExprPtr otherwise;
    if (SkipName("else")) {
      LIFT_ASSIGN_OR_RETURN(otherwise, Expression());
    }
    expr->args.push_back(std::move(otherwise));
    LIFT_ASSIGN_OR_RETURN(value, Finish(std::move(expr)));
  }
  return value;
}

absl::StatusOr<ExprPtr> ExpressionParser::Or() {
  LIFT_ASSIGN_OR_RETURN(ExprPtr left, And());
  while (SkipName("or")) {
    ExprPtr expr = Make(Expr::kOr);
    expr->args.push_back(std::move(left));
    LIFT_ASSIGN_OR_RETURN(ExprPtr right, And());
    expr->args.push_back(std::move(right));
    LIFT_ASSIGN_OR_RETURN(left, Finish(std::move(expr)));
  }
  return left;
}

absl::StatusOr<ExprPtr> ExpressionParser::And() {
  LIFT_ASSIGN_OR_RETURN(ExprPtr left, Not());
  while (SkipName("and")) {
    ExprPtr expr = Make(Expr::kAnd);
    expr->args.push_back(std::move(left));
    LIFT_ASSIGN_OR_RETURN(ExprPtr right, Not());
    expr->args.push_back(std::move(right));
    LIFT_ASSIGN_OR_RETURN(left, Finish(std::move(expr)));
  }
  return left;
}

absl::StatusOr<ExprPtr> ExpressionParser::Not() {
  if (!SkipName("not")) return Comparison();
  const Level level(nesting_);
  if (nesting_ > kMaxNesting) return Unsupported("nesting this deep");
  ExprPtr expr = Make(Expr::kNot);
  LIFT_ASSIGN_OR_RETURN(ExprPtr value, Not());
  expr->args.push_back(std::move(value));
  return Finish(std::move(expr));
}

absl::StatusOr<ExprPtr> ExpressionParser::Comparison() {
  LIFT_ASSIGN_OR_RETURN(ExprPtr first, Binary(0));
  ExprPtr expr = Make(Expr::kCompare);
  while (true) {
    std::string op;
    for (const char* candidate : {"==", "!=", "<=", ">=", "<", ">"}) {
      if (op.empty() && SkipOperator(candidate)) op = candidate;
    }
    if (op.empty() && SkipName("in")) op = "in";
    if (op.empty() && IsName("not") && Peek(1).kind == Token::kName && Peek(1).text == "in") {
      Next();
      Next();
      op = "not in";
    }
    if (op.empty()) break;
    if (expr->args.empty()) expr->args.push_back(std::move(first));
    LIFT_ASSIGN_OR_RETURN(ExprPtr right, Binary(0));
    expr->args.push_back(std::move(right));
    expr->ops.push_back(op);
  }
  if (expr->args.empty()) return first;
  return Finish(std::move(expr));
}

// Levels: 0 is + and -, 1 is ~, 2 is * / // %.
absl::StatusOr<ExprPtr> ExpressionParser::Binary(int level) {
  static const std::vector<std::vector<const char*>> kLevels = {
      {"+", "-"}, {"~"}, {"*", "//", "%", "/", "**"}};
  if (level == 3) return Unary(true);
  LIFT_ASSIGN_OR_RETURN(ExprPtr left, Binary(level + 1));
  while (true) {
    std::string op;
    for (const char* candidate : kLevels[level]) {
      if (op.empty() && SkipOperator(candidate)) op = candidate;
    }
    if (op.empty()) return left;
    if (op == "/" || op == "**") return Unsupported(absl::StrCat("operator ", op));
    ExprPtr expr = Make(Expr::kBinary, op);
    expr->args.push_back(std::move(left));
    LIFT_ASSIGN_OR_RETURN(ExprPtr right, Binary(level + 1));
    expr->args.push_back(std::move(right));
    LIFT_ASSIGN_OR_RETURN(left, Finish(std::move(expr)));
  }
}

absl::StatusOr<ExprPtr> ExpressionParser::Unary(bool with_filters) {
  ExprPtr value;
  if (IsOperator("+")) return Unsupported("unary +");
  if (SkipOperator("-")) {
    const Level level(nesting_);
    if (nesting_ > kMaxNesting) return Unsupported("nesting this deep");
    ExprPtr expr = Make(Expr::kNegate);
    LIFT_ASSIGN_OR_RETURN(ExprPtr operand, Unary(false));
    expr->args.push_back(std::move(operand));
    LIFT_ASSIGN_OR_RETURN(value, Finish(std::move(expr)));
  } else {
    LIFT_ASSIGN_OR_RETURN(value, Primary());
  }
  LIFT_ASSIGN_OR_RETURN(value, Postfix(std::move(value)));
  return with_filters ? Filters(std::move(value)) : std::move(value);
}

absl::StatusOr<ExprPtr> ExpressionParser::Primary() {
  const Token token = Peek();
  ExprPtr expr = Make(Expr::kLiteral);
  if (token.kind == Token::kString) {
    std::string text;
    while (Peek().kind == Token::kString) text += Next().text;  // adjacent ones join
    expr->value = Value(std::move(text));
    return expr;
  }
  if (token.kind == Token::kInteger) {
    expr->value = Value(Next().number);
    return expr;
  }
  if (token.kind == Token::kName) {
    const std::string name = Next().text;
    if (name == "true" || name == "True" || name == "false" || name == "False") {
      expr->value = Value(name[0] == 't' || name[0] == 'T');
    } else if (name == "none" || name == "None") {
      expr->value = Value(None{});
    } else {
      expr->kind = Expr::kName;
      expr->text = name;
    }
    return expr;
  }
  if (SkipOperator("(")) return Parenthesized();
  if (SkipOperator("[")) {
    expr->kind = Expr::kList;
    LIFT_RETURN_IF_ERROR(Items("]", false, *expr));
    return Finish(std::move(expr));
  }
  if (SkipOperator("{")) {
    expr->kind = Expr::kDict;
    LIFT_RETURN_IF_ERROR(Items("}", true, *expr));
    return Finish(std::move(expr));
  }
  return Invalid("an expression is missing");
}

absl::StatusOr<ExprPtr> ExpressionParser::Parenthesized() {
  ExprPtr tuple = Make(Expr::kList);
  if (SkipOperator(")")) return tuple;
  LIFT_ASSIGN_OR_RETURN(ExprPtr value, Expression());
  if (SkipOperator(")")) return value;
  LIFT_RETURN_IF_ERROR(ExpectOperator(","));
  tuple->args.push_back(std::move(value));
  LIFT_RETURN_IF_ERROR(Items(")", false, *tuple));
  return Finish(std::move(tuple));
}

absl::Status ExpressionParser::Items(const char* close, bool pairs, Expr& out) {
  while (!SkipOperator(close)) {
    LIFT_ASSIGN_OR_RETURN(ExprPtr item, Expression());
    out.args.push_back(std::move(item));
    if (pairs) {
      LIFT_RETURN_IF_ERROR(ExpectOperator(":"));
      LIFT_ASSIGN_OR_RETURN(ExprPtr value, Expression());
      out.args.push_back(std::move(value));
    }
    if (!IsOperator(close)) LIFT_RETURN_IF_ERROR(ExpectOperator(","));
  }
  return absl::OkStatus();
}

absl::StatusOr<ExprPtr> ExpressionParser::Postfix(ExprPtr value) {
  while (true) {
    if (SkipOperator(".")) {
      ExprPtr expr = Make(Expr::kAttribute);
      LIFT_ASSIGN_OR_RETURN(expr->text, ExpectName());
      expr->args.push_back(std::move(value));
      if (SkipOperator("(")) {
        expr->kind = Expr::kMethod;
        if (!IsMethod(expr->text)) return Unsupported(absl::StrCat("method .", expr->text, "()"));
        LIFT_RETURN_IF_ERROR(Arguments(*expr));
      }
      LIFT_ASSIGN_OR_RETURN(value, Finish(std::move(expr)));
    } else if (SkipOperator("[")) {
      LIFT_ASSIGN_OR_RETURN(value, Subscript(std::move(value)));
    } else if (IsOperator("(")) {
      if (value->kind != Expr::kName)
        return Unsupported("calling anything but a function by its name");
      ExprPtr expr = Make(Expr::kCall, value->text);
      called_.emplace_back(value->text, value->line);
      Next();
      LIFT_RETURN_IF_ERROR(Arguments(*expr));
      LIFT_ASSIGN_OR_RETURN(value, Finish(std::move(expr)));
    } else {
      return value;
    }
  }
}

absl::StatusOr<ExprPtr> ExpressionParser::Subscript(ExprPtr value) {
  ExprPtr expr = Make(Expr::kItem);
  expr->args.push_back(std::move(value));
  for (int part = 0; part < 3; ++part) {
    ExprPtr index;
    if (!IsOperator(":") && !IsOperator("]")) {
      LIFT_ASSIGN_OR_RETURN(index, Expression());
    }
    expr->args.push_back(std::move(index));
    if (!SkipOperator(":")) break;
    expr->kind = Expr::kSlice;
    if (part == 2) return Invalid("a slice has too many parts");
    if (IsOperator("]")) break;
  }
  if (expr->kind == Expr::kItem && expr->args[1] == nullptr) return Invalid("a subscript is empty");
  if (expr->kind == Expr::kSlice) expr->args.resize(4);
  LIFT_RETURN_IF_ERROR(ExpectOperator("]"));
  return Finish(std::move(expr));
}

absl::Status ExpressionParser::Arguments(Expr& call) {
  while (!SkipOperator(")")) {
    if (IsOperator("*") || IsOperator("**")) return Unsupported("argument unpacking");
    const bool keyword =
        Peek().kind == Token::kName && Peek(1).kind == Token::kOperator && Peek(1).text == "=";
    std::string name;
    if (keyword) {
      name = Next().text;
      Next();
    }
    LIFT_ASSIGN_OR_RETURN(ExprPtr value, Expression());
    if (keyword) {
      call.keywords.emplace_back(std::move(name), std::move(value));
    } else if (!call.keywords.empty()) {
      return Invalid("a positional argument after a keyword argument");
    } else {
      call.args.push_back(std::move(value));
    }
    if (!IsOperator(")")) LIFT_RETURN_IF_ERROR(ExpectOperator(","));
  }
  return absl::OkStatus();
}

absl::StatusOr<ExprPtr> ExpressionParser::Filters(ExprPtr value) {
  while (true) {
    if (SkipOperator("|")) {
      ExprPtr expr = Make(Expr::kFilter);
      LIFT_ASSIGN_OR_RETURN(expr->text, ExpectName());
      if (!IsFilter(expr->text)) return Unsupported(absl::StrCat("filter \"", expr->text, "\""));
      expr->args.push_back(std::move(value));
      if (SkipOperator("(")) LIFT_RETURN_IF_ERROR(Arguments(*expr));
      LIFT_ASSIGN_OR_RETURN(value, Finish(std::move(expr)));
    } else if (SkipName("is")) {
      LIFT_ASSIGN_OR_RETURN(value, Test(std::move(value)));
    } else if (IsOperator("(")) {
      return Unsupported("calling the result of a filter");
    } else {
      return value;
    }
  }
}

absl::StatusOr<ExprPtr> ExpressionParser::Test(ExprPtr value) {
  const bool negated = SkipName("not");
  ExprPtr expr = Make(Expr::kTest);
  LIFT_ASSIGN_OR_RETURN(expr->text, ExpectName());
  if (!IsTest(expr->text)) return Unsupported(absl::StrCat("test \"", expr->text, "\""));
  expr->args.push_back(std::move(value));
  const Token& next = Peek();
  const bool operand = next.kind == Token::kString || next.kind == Token::kInteger ||
                       IsOperator("[") || IsOperator("{") ||
                       (next.kind == Token::kName && next.text != "else" && next.text != "or" &&
                        next.text != "and" && next.text != "is" && next.text != "if" &&
                        next.text != "in" && next.text != "not");
  if (SkipOperator("(")) {
    LIFT_RETURN_IF_ERROR(Arguments(*expr));
  } else if (operand) {
    LIFT_ASSIGN_OR_RETURN(ExprPtr argument, Primary());
    LIFT_ASSIGN_OR_RETURN(argument, Postfix(std::move(argument)));
    expr->args.push_back(std::move(argument));
  }
  LIFT_ASSIGN_OR_RETURN(expr, Finish(std::move(expr)));
  if (!negated) return expr;
  ExprPtr inverse = Make(Expr::kNot);
  inverse->args.push_back(std::move(expr));
  return Finish(std::move(inverse));
}

}  // namespace lift::jinja
