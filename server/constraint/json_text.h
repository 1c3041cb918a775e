// JSON as text: the pieces a schema's grammar is put together from.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "kernels/base/status.h"
#include "server/constraint/grammar.h"

namespace lift {

// Bounds of a number; whole ones.
struct NumberBounds {
  std::optional<int64_t> least, most;
  bool above_least = false, below_most = false;  // the bound itself is excluded
  bool any() const { return least.has_value() || most.has_value(); }
};

// Nodes of `grammar`. One layout: at most one space after a colon or comma, none elsewhere.
// Characters of strings are written plainly or, where they must be, as one of \" \\ \b \f \n \r \t.
class JsonText {
 public:
  explicit JsonText(Grammar& grammar) : grammar_(grammar) {}

  int Comma();
  int Colon();
  // One character of a string's content that is in `set`, as a string literal writes it.
  int Character(const CodePoints& set);
  // With its quotes; `most` may be kUnlimited.
  int String(int least, int most);
  int Quoted(int content);
  // The value as JSON writes it without spaces.
  int Literal(const std::string& json) { return grammar_.Text(json); }
  int Integer(const NumberBounds& bounds);
  int Number(const NumberBounds& bounds);
  int Boolean();
  // Any value; any object; any array: of values nested as deep as the automaton has room for.
  int AnyValue();
  int AnyObject();
  int AnyArray();
  // Any string but these, with its quotes.
  int StringOtherThan(const std::vector<std::string>& names);

 private:
  int Digits(size_t count);
  int SameLength(const std::string& low, const std::string& high);
  int Magnitude(int64_t least, std::optional<int64_t> most);
  int Fractional(const NumberBounds& magnitude);
  int OtherThan(std::vector<std::u32string> names);
  int value_rule_ = -1, object_rule_ = -1, array_rule_ = -1, string_rule_ = -1;

  Grammar& grammar_;
};

}  // namespace lift
