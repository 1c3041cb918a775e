// Tokens -> syntax tree, refusing everything outside the subset.
#pragma once

#include <string>
#include <vector>

#include "server/tokenizer/template_ast.h"
#include "server/tokenizer/template_lexer.h"

namespace lift::jinja {

inline constexpr int kMaxNesting = 100;    // of statements, and of brackets in an expression
inline constexpr int kMaxExprDepth = 200;  // of an expression's tree

class ExpressionParser {
 public:
  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  absl::StatusOr<ExprPtr> Expression();  // with an inline if
  absl::StatusOr<ExprPtr> Or();          // without
  const std::vector<std::pair<std::string, int>>& called() const {
    return called_;
  }  // functions and where

 protected:
  const Token& Peek(size_t ahead = 0) const {
    return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
  }
  Token Next() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool IsOperator(const char* op) const {
    return Peek().kind == Token::kOperator && Peek().text == op;
  }
  bool IsName(const char* name) const { return Peek().kind == Token::kName && Peek().text == name; }
  bool SkipOperator(const char* op);
  bool SkipName(const char* name);
  absl::Status ExpectOperator(const char* op);
  absl::StatusOr<std::string> ExpectName();
  absl::Status Invalid(const std::string& message) const;
  absl::Status Unsupported(const std::string& what) const;

  int nesting_ = 0;

 private:
  absl::StatusOr<ExprPtr> And();
  absl::StatusOr<ExprPtr> Not();
  absl::StatusOr<ExprPtr> Comparison();
  absl::StatusOr<ExprPtr> Binary(int level);
  absl::StatusOr<ExprPtr> Unary(bool with_filters);
  absl::StatusOr<ExprPtr> Primary();
  absl::StatusOr<ExprPtr> Parenthesized();
  absl::StatusOr<ExprPtr> Postfix(ExprPtr value);
  absl::StatusOr<ExprPtr> Subscript(ExprPtr value);
  absl::StatusOr<ExprPtr> Filters(ExprPtr value);
  absl::StatusOr<ExprPtr> Test(ExprPtr value);
  absl::Status Arguments(Expr& call);
  absl::Status Items(const char* close, bool pairs, Expr& out);
  ExprPtr Make(Expr::Kind kind, std::string text = "") const;
  // Takes the depth of the parts into account; refuses trees that are too deep.
  absl::StatusOr<ExprPtr> Finish(ExprPtr expr) const;

  std::vector<Token> tokens_;
  size_t at_ = 0;
  std::vector<std::pair<std::string, int>> called_;
};

// The whole template.
absl::StatusOr<Block> ParseTemplate(const std::string& source);

}  // namespace lift::jinja
