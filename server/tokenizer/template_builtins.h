// Filters, tests, methods and functions of the chat-template language.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/tokenizer/template_value.h"

namespace lift::jinja {

// Work left for one rendering: one unit is a byte or an element touched. RESOURCE_EXHAUSTED when it
// is used up.
class Budget {
 public:
  explicit Budget(uint64_t units) : left_(units) {}
  absl::Status Take(uint64_t units) {
    if (units > left_)
      return absl::ResourceExhaustedError(
          "the template takes too much work or makes too much text");
    left_ -= units;
    return absl::OkStatus();
  }

 private:
  uint64_t left_;
};

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> keywords;
  // Undefined if absent.
  Value Get(size_t position, std::string_view keyword) const;
};

bool IsFilter(std::string_view name);
bool IsTest(std::string_view name);
bool IsMethod(std::string_view name);
bool IsFunction(std::string_view name);  // the interpreter runs these

// INVALID_ARGUMENT for wrong types, as Jinja raises.
absl::StatusOr<Value> ApplyFilter(std::string_view name, const Value& value,
                                  const Arguments& arguments, Budget& budget);
absl::StatusOr<bool> ApplyTest(std::string_view name, const Value& value,
                               const Arguments& arguments, Budget& budget);
absl::StatusOr<Value> CallMethod(std::string_view name, const Value& value,
                                 const Arguments& arguments, Budget& budget);

// Shared with the interpreter.
absl::StatusOr<List> Iterate(const Value& value, Budget& budget);  // what a for loop sees
absl::StatusOr<bool> Contains(const Value& container, const Value& item, Budget& budget);
absl::StatusOr<Value> GetItem(const Value& container, const Value& key);  // undefined if absent

}  // namespace lift::jinja
