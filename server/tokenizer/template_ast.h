// Syntax tree of a chat template.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/tokenizer/template_value.h"

namespace lift::jinja {

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Expr {
  enum Kind {
    kLiteral,    // value
    kName,       // text
    kList,       // args
    kDict,       // args: key, value, key, value ...
    kAttribute,  // args[0].text
    kItem,       // args[0][args[1]]
    kSlice,      // args[0][args[1]:args[2]:args[3]], absent ones null
    kCall,       // text(args, keywords): a global function or a macro
    kMethod,     // args[0].text(args[1..], keywords)
    kFilter,     // args[0] | text(args[1..], keywords)
    kTest,       // args[0] is text(args[1..])
    kNot,        // not args[0]
    kNegate,     // -args[0]
    kAnd,
    kOr,           // args[0], args[1]
    kBinary,       // args[0] text args[1]
    kCompare,      // args[0] ops[0] args[1] ops[1] args[2] ...
    kConditional,  // args[0] if args[1] else args[2] (may be null)
  } kind = kLiteral;
  int line = 0;
  int depth = 1;  // of the tree below, this node included
  std::string text;
  Value value;
  std::vector<ExprPtr> args;
  std::vector<std::pair<std::string, ExprPtr>> keywords;
  std::vector<std::string> ops;
};

struct Statement;
using Block = std::vector<std::unique_ptr<Statement>>;

struct Statement {
  enum Kind {
    kText,          // text
    kOutput,        // expr
    kIf,            // branches (condition null: else)
    kFor,           // for names in expr [if filter]: body, else otherwise
    kSet,           // names[0] = expr
    kSetAttribute,  // names[0].names[1] = expr
    kSetBlock,      // names[0] = what body prints
    kMacro,         // text(names, defaults): body; known from the start of its scope on
    kBreak,
    kContinue,
  } kind = kText;
  int line = 0;
  std::string text;
  ExprPtr expr, filter;
  std::vector<std::string> names;
  std::vector<ExprPtr> defaults;  // of the macro's parameters, null where there is none
  std::vector<std::pair<ExprPtr, Block>> branches;
  Block body, otherwise;
};

}  // namespace lift::jinja
