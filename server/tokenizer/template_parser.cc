// Statements.
#include "server/tokenizer/template_parser.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "server/tokenizer/template_builtins.h"

namespace lift::jinja {
namespace {

class TemplateParser : public ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  absl::StatusOr<Block> Run() {
    Block block;
    LIFT_RETURN_IF_ERROR(Body({}, block));
    for (const auto& [name, line] : called()) {
      if (!IsFunction(name) && !macros_.contains(name)) {
        return absl::UnimplementedError(
            absl::StrCat("Chat template line ", line, ": function ", name, "() is not supported"));
      }
    }
    return block;
  }

 private:
  static std::unique_ptr<Statement> Make(Statement::Kind kind, int line) {
    auto statement = std::make_unique<Statement>();
    statement->kind = kind;
    statement->line = line;
    return statement;
  }

  absl::Status EndTag() {
    if (Peek().kind != Token::kBlockEnd)
      return Invalid(absl::StrCat("unexpected \"", Peek().text, "\" in a tag"));
    Next();
    return absl::OkStatus();
  }

  // Reads statements up to a tag named in `ends`, whose name is left as the next token ("" at the
  // end of the template).
  absl::Status Body(const std::set<std::string>& ends, Block& out) {
    if (++nesting_ > kMaxNesting) return Unsupported("nesting this deep");
    while (Peek().kind != Token::kEnd) {
      const int line = Peek().line;
      const Token token = Next();
      if (token.kind == Token::kText) {
        out.push_back(Make(Statement::kText, line));
        out.back()->text = token.text;
      } else if (token.kind == Token::kOutputBegin) {
        out.push_back(Make(Statement::kOutput, line));
        LIFT_ASSIGN_OR_RETURN(out.back()->expr, Expression());
        if (Peek().kind != Token::kOutputEnd)
          return Invalid(absl::StrCat("unexpected \"", Peek().text, "\" in an expression"));
        Next();
      } else {
        if (Peek().kind == Token::kName && ends.contains(Peek().text)) break;
        LIFT_RETURN_IF_ERROR(Tag(line, out));
      }
    }
    --nesting_;
    if (Peek().kind == Token::kEnd && !ends.empty())
      return Invalid(absl::StrCat("\"", *ends.rbegin(), "\" is missing"));
    return absl::OkStatus();
  }

  absl::Status Tag(int line, Block& out) {
    LIFT_ASSIGN_OR_RETURN(const std::string name, ExpectName());
    if (name == "if") return If(line, out);
    if (name == "for") return For(line, out);
    if (name == "set") return Set(line, out);
    if (name == "macro") return Macro(line, out);
    if (name == "generation") {  // marks what training learns from; prints its body
      LIFT_RETURN_IF_ERROR(EndTag());
      LIFT_RETURN_IF_ERROR(Body({"endgeneration"}, out));
      Next();
      return EndTag();
    }
    if (name == "break" || name == "continue") {
      if (loops_ == 0) return Invalid(absl::StrCat("\"", name, "\" outside a loop"));
      out.push_back(Make(name == "break" ? Statement::kBreak : Statement::kContinue, line));
      return EndTag();
    }
    if (name.starts_with("end") || name == "else" || name == "elif")
      return Invalid(absl::StrCat("unexpected \"", name, "\""));
    return Unsupported(absl::StrCat("tag \"", name, "\""));
  }

  absl::Status If(int line, Block& out) {
    auto statement = Make(Statement::kIf, line);
    bool condition = true, more = true;
    while (more) {
      ExprPtr test;
      if (condition) {
        LIFT_ASSIGN_OR_RETURN(test, Expression());
      }
      LIFT_RETURN_IF_ERROR(EndTag());
      Block body;
      LIFT_RETURN_IF_ERROR(Body(condition ? std::set<std::string>{"elif", "else", "endif"}
                                          : std::set<std::string>{"endif"},
                                body));
      statement->branches.emplace_back(std::move(test), std::move(body));
      const std::string next = Next().text;
      condition = next == "elif";
      more = next != "endif";
    }
    out.push_back(std::move(statement));
    return EndTag();
  }

  absl::Status For(int line, Block& out) {
    auto statement = Make(Statement::kFor, line);
    const bool parenthesized = SkipOperator("(");
    do {
      LIFT_ASSIGN_OR_RETURN(std::string name, ExpectName());
      statement->names.push_back(std::move(name));
    } while (SkipOperator(","));
    if (parenthesized) LIFT_RETURN_IF_ERROR(ExpectOperator(")"));
    if (!SkipName("in")) return Invalid("\"in\" is missing");
    LIFT_ASSIGN_OR_RETURN(statement->expr, Or());
    if (SkipName("if")) {
      LIFT_ASSIGN_OR_RETURN(statement->filter, Expression());
    }
    if (IsName("recursive")) return Unsupported("a recursive loop");
    LIFT_RETURN_IF_ERROR(EndTag());
    ++loops_;
    LIFT_RETURN_IF_ERROR(Body({"else", "endfor"}, statement->body));
    --loops_;
    if (Next().text == "else") {
      LIFT_RETURN_IF_ERROR(EndTag());
      LIFT_RETURN_IF_ERROR(Body({"endfor"}, statement->otherwise));
      Next();
    }
    out.push_back(std::move(statement));
    return EndTag();
  }

  absl::Status Set(int line, Block& out) {
    auto statement = Make(Statement::kSet, line);
    LIFT_ASSIGN_OR_RETURN(std::string name, ExpectName());
    statement->names.push_back(std::move(name));
    if (SkipOperator(".")) {
      statement->kind = Statement::kSetAttribute;
      LIFT_ASSIGN_OR_RETURN(std::string attribute, ExpectName());
      statement->names.push_back(std::move(attribute));
    }
    if (SkipOperator("=")) {
      LIFT_ASSIGN_OR_RETURN(statement->expr, Expression());
      if (IsOperator(",")) return Unsupported("an unparenthesized tuple");
    } else if (IsOperator(",")) {
      return Unsupported("setting several names at once");
    } else if (IsOperator("|") || statement->kind == Statement::kSetAttribute) {
      return Unsupported("this form of set");
    } else {
      statement->kind = Statement::kSetBlock;
      LIFT_RETURN_IF_ERROR(EndTag());
      LIFT_RETURN_IF_ERROR(Body({"endset"}, statement->body));
      Next();
    }
    out.push_back(std::move(statement));
    return EndTag();
  }

  absl::Status Macro(int line, Block& out) {
    if (nesting_ > 1) return Unsupported("a macro inside another statement");
    auto statement = Make(Statement::kMacro, line);
    LIFT_ASSIGN_OR_RETURN(statement->text, ExpectName());
    if (IsFunction(statement->text))
      return Unsupported(absl::StrCat("a macro named ", statement->text));
    LIFT_RETURN_IF_ERROR(ExpectOperator("("));
    while (!SkipOperator(")")) {
      LIFT_ASSIGN_OR_RETURN(std::string name, ExpectName());
      statement->names.push_back(std::move(name));
      ExprPtr value;
      if (SkipOperator("=")) {
        LIFT_ASSIGN_OR_RETURN(value, Expression());
      }
      statement->defaults.push_back(std::move(value));
      if (!IsOperator(")")) LIFT_RETURN_IF_ERROR(ExpectOperator(","));
    }
    LIFT_RETURN_IF_ERROR(EndTag());
    macros_.insert(statement->text);
    const int loops = std::exchange(loops_, 0);
    LIFT_RETURN_IF_ERROR(Body({"endmacro"}, statement->body));
    loops_ = loops;
    Next();
    if (IsName(statement->text.c_str())) Next();
    out.push_back(std::move(statement));
    return EndTag();
  }

  int loops_ = 0;  // around the current statement
  std::set<std::string> macros_;
};

}  // namespace

absl::StatusOr<Block> ParseTemplate(const std::string& source) {
  LIFT_ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  return TemplateParser(std::move(tokens)).Run();
}

}  // namespace lift::jinja
