// Values of the chat-template language, with Python's notions of truth, equality, text and JSON.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "kernels/base/status.h"

namespace lift::jinja {

struct Value;
using List = std::vector<Value>;
using Dict =
    std::vector<std::pair<std::string, Value>>;  // in insertion order; small, hence no index

struct Undefined {
  std::string name;  // for messages
};
struct None {};
// Namespaces are mutable and may name each other, so the interpreter owns them and values hold an
// index.
struct NamespaceRef {
  size_t index;
};
// A global function or a macro, by name; callable only by that name.
struct FunctionRef {
  std::string name;
};

// Immutable, cheap to copy: texts, lists and dictionaries are shared. Never cyclic, but parts may
// be shared so often that walking the value takes far longer than building it did; the interpreter
// caps `weight` and `depth` for that.
struct Value {
  std::variant<Undefined, None, bool, int64_t, std::shared_ptr<const std::string>,
               std::shared_ptr<const List>, std::shared_ptr<const Dict>, NamespaceRef, FunctionRef>
      v;

  uint32_t weight = 1;  // bytes seen when walking the value, saturating
  int32_t depth = 0;    // of nested lists and dictionaries

  Value() : v(Undefined{}) {}
  Value(bool b) : v(b) {}
  Value(int64_t i) : v(i) {}
  Value(std::string s);
  Value(List l);
  Value(Dict d);
  Value(None n) : v(n) {}
  Value(Undefined u) : v(std::move(u)) {}
  Value(NamespaceRef n) : v(n) {}
  Value(FunctionRef f) : v(std::move(f)) {}

  bool undefined() const { return std::holds_alternative<Undefined>(v); }
  bool none() const { return std::holds_alternative<None>(v); }
  // nullptr if it is something else.
  const bool* boolean() const { return std::get_if<bool>(&v); }
  const int64_t* integer() const { return std::get_if<int64_t>(&v); }
  const std::string* text() const { return Get<std::string>(); }
  const List* list() const { return Get<List>(); }
  const Dict* dict() const { return Get<Dict>(); }
  const NamespaceRef* ns() const { return std::get_if<NamespaceRef>(&v); }
  bool function() const { return std::holds_alternative<FunctionRef>(v); }

 private:
  template <typename T>
  const T* Get() const {
    const auto* p = std::get_if<std::shared_ptr<const T>>(&v);
    return p == nullptr ? nullptr : p->get();
  }
};

bool Truthy(const Value& value);
bool Equal(const Value& a, const Value& b);
// -1, 0 or 1 for two integers or two texts; INVALID_ARGUMENT otherwise.
absl::StatusOr<int> Compare(const Value& a, const Value& b);
const Value* Find(const Dict& dict, std::string_view key);

std::string TypeName(const Value& value);  // "str", "int", ...
std::string Str(const Value& value);       // Python's str(); "" for undefined
std::string Repr(const Value& value);      // Python's repr()
// json.dumps(value, ensure_ascii=False); indent < 0: on one line. INVALID_ARGUMENT for what JSON
// has no form of.
absl::StatusOr<std::string> ToJson(const Value& value, int64_t indent);

}  // namespace lift::jinja
